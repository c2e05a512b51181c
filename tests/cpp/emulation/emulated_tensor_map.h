// tensor_map.h for the emulator.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device.h"

namespace dcn {

struct TensorMap {
  const uint8_t* data = nullptr;
  int rank = 0;
  int64_t sizes[4] = {1, 1, 1, 1};
  int32_t box[4] = {1, 1, 1, 1};
};

template <int kRank>
cudaError_t make_tensor_map(TensorMap& map, void* data, const int64_t (&sizes)[kRank],
                            const int32_t (&box)[kRank]) {
  map = {};
  map.data = static_cast<const uint8_t*>(data);
  map.rank = kRank;
  // What the driver refuses. No kernel is to run in another's place then.
  bool refused = reinterpret_cast<uintptr_t>(data) % 16 != 0 || sizes[0] % 8 != 0 || box[0] != 64;
  for (int i = 0; i < kRank; ++i) {
    refused = refused || box[i] < 1 || box[i] > 256;
    map.sizes[i] = sizes[i], map.box[i] = box[i];
  }
  if (refused) emulation::fail("no such tensor map");
  return cudaSuccess;
}

}  // namespace dcn
