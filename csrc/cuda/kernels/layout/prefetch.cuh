// Asks for memory that the kernel behind is going to read, from a kernel that has little to do.
#pragma once

#include "../fused/fused_params.h"
#include "../ptx_sm90.cuh"

namespace dcn {

// So many blocks at least: a multiprocessor whose copy engine has much to ask for is late with what
// the kernel behind asks for there. With 8 blocks, deft's forward pass took 21.5 us instead
// of 20.5.
constexpr int kPrefetchBlocks = 128;

// Towards the L2, a part of each by each block.
__device__ __forceinline__ void prefetch_parts(const PackWeightParams& params) {
  constexpr int64_t kLine = 128;
  if (threadIdx.x != 0) return;
  const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
#pragma unroll 1
  for (const Prefetch& memory : params.prefetch) {
    const int64_t part = (memory.bytes / blocks / kLine + 1) * kLine;
    const int64_t begin = block * part, left = min(memory.bytes - begin, part);
    if (left > 0) {
      ptx::bulk_prefetch(static_cast<const uint8_t*>(memory.begin) + begin,
                         static_cast<uint32_t>(left));
    }
  }
}

}  // namespace dcn
