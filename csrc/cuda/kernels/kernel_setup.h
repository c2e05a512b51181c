// What a kernel is told once per device before its first launch.
#pragma once

#if defined(DCN_EMULATION)  // a CPU executes the kernels (tests/cpp/emulation)
#include "emulated_launch.h"
#else

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

namespace dcn {

// Shared memory that the kernels of a fused call leave to the L1's other half: all of them ask for
// the same division, since a multiprocessor must run empty to change it (but the scatter, beside
// which nothing large runs). In per cent of 228 KB, rounded down: 164 KB.
constexpr int kFusedCarveout = 71;

// Allows `kKernel` `shared_bytes` of dynamic shared memory.
template <auto kKernel>
cudaError_t set_up_kernel(int shared_bytes, int carveout = kFusedCarveout) {
  static std::atomic<uint64_t> done{0};  // a bit for each device
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (done.load(std::memory_order_relaxed) & bit) return cudaSuccess;
  error = cudaFuncSetAttribute(kKernel, cudaFuncAttributePreferredSharedMemoryCarveout, carveout);
  if (error == cudaSuccess && shared_bytes > 0) {
    error =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  }
  if (error == cudaSuccess) done.fetch_or(bit, std::memory_order_relaxed);
  return error;
}

// `beside_previous`: it may start before the kernel before has ended (griddepcontrol).
template <auto kKernel, typename Params>
cudaError_t launch_kernel(dim3 grid, int threads, int shared_bytes, cudaStream_t stream,
                          const Params& params, bool beside_previous = false) {
  const cudaError_t error = set_up_kernel<kKernel>(shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = grid;
  launch.blockDim = dim3(threads);
  launch.dynamicSmemBytes = shared_bytes;
  launch.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = &attribute;
  launch.numAttrs = beside_previous ? 1 : 0;
  return cudaLaunchKernelEx(&launch, kKernel, params);
}

}  // namespace dcn

#endif  // DCN_EMULATION
