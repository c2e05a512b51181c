// kernel_setup.h for the emulator: launches.
#pragma once

#include "cuda_language.h"

namespace dcn {

template <auto kKernel>
cudaError_t set_up_kernel(int) {
  return cudaSuccess;
}

template <auto kKernel, typename Params>
cudaError_t launch_kernel(dim3 grid, int threads, int64_t shared_bytes, cudaStream_t,
                          const Params& params, bool = false) {
  emulation::launch(grid, dim3(threads), 1, shared_bytes, [&] { kKernel(params); });
  return cudaSuccess;
}

template <typename Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Params),
                               const Params& params) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < launch->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = launch->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) cluster = attribute.val.clusterDim.z;
  }
  emulation::launch(launch->gridDim, launch->blockDim, cluster,
                    static_cast<int64_t>(launch->dynamicSmemBytes), [&] { kernel(params); });
  return cudaSuccess;
}

}  // namespace dcn
