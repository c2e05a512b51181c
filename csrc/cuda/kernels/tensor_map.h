// How the copy engine finds a box of an array in memory: a tensor map, which travels to a kernel as
// a parameter (__grid_constant__). What of a box lies outside the array is zeros.
#pragma once

#include <cstdint>

#if defined(DCN_EMULATION)  // a CPU executes the kernels (tests/cpp/emulation)
#include "emulated_tensor_map.h"
#else

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace dcn {

using TensorMap = CUtensorMap;

// Of an array of 16 bits, and boxes whose rows of 128 bytes come swizzled, as wgmma takes them.
// Sizes and the box innermost first; the array has no gaps.
template <int kRank>
cudaError_t make_tensor_map(TensorMap& map, void* data, const int64_t (&sizes)[kRank],
                            const int32_t (&box)[kRank]) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess) cudaGetLastError();  // it is not the next launch's
    return error == cudaSuccess ? reinterpret_cast<Encode>(entry) : nullptr;
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t lengths[kRank], strides[kRank];
  cuuint32_t box_lengths[kRank], steps[kRank];
  cuuint64_t stride = sizeof(uint16_t);
  for (int i = 0; i < kRank; ++i) {
    lengths[i] = sizes[i], box_lengths[i] = box[i], steps[i] = 1;
    strides[i] = stride *= sizes[i];  // from one to the next along i + 1
  }
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, kRank, data, lengths, strides, box_lengths,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace dcn

#endif  // DCN_EMULATION
