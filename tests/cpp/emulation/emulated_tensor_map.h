// tensor_map.h for the emulator.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

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
  for (int i = 0; i < kRank; ++i) {
    // What the driver refuses.
    if (box[i] < 1 || box[i] > 256) return cudaErrorInvalidValue;
    map.sizes[i] = sizes[i], map.box[i] = box[i];
  }
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && sizes[0] % 8 == 0;
  return aligned && box[0] == 64 ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace dcn
