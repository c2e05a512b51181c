// The end of owgrad, where a sample's gradients have several parts: they are added in order, and
// stored in the offset's and the mask's dtype.
#include "../../../owgrad_plan.h"
#include "../fused/fused_math.cuh"
#include "../kernel_setup.h"
#include "../sampling.cuh"
#include "owgrad_launch.h"

namespace dcn {
namespace {

struct SumParams {
  const float* parts;
  int32_t count;
  int64_t values;  // of a part
  void *grad_offset, *grad_mask;
  Dtype offset_dtype, mask_dtype;
};

__device__ __forceinline__ void store(void* to, Dtype dtype, int64_t index, float value) {
  switch (dtype) {
    case Dtype::kF16:
      return narrow(value, static_cast<__half*>(to)[index]);
    case Dtype::kBF16:
      return narrow(value, static_cast<__nv_bfloat16*>(to)[index]);
    default:
      static_cast<float*>(to)[index] = value;
  }
}

// A thread adds one value.
__global__ void __launch_bounds__(kThreads)
    dcn_owgrad_sum_kernel(const __grid_constant__ SumParams params) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= params.values) return;
  const int64_t offsets = params.values / 3 * 2;
  void* const to = i < offsets ? params.grad_offset : params.grad_mask;
  if (to == nullptr) return;
  float sum = 0.f;
#pragma unroll 4
  for (int32_t part = 0; part < params.count; ++part) {
    sum += __ldcg(params.parts + part * params.values + i);
  }
  store(to, i < offsets ? params.offset_dtype : params.mask_dtype, i < offsets ? i : i - offsets,
        sum);
}

}  // namespace

cudaError_t launch_owgrad_sum(const OwgradParams& params, cudaStream_t stream) {
  const int64_t parts = owgrad_parts(params.shape, params.layout, kWgradTiles[params.tile]);
  if (parts == 1) return cudaSuccess;
  const int64_t values = owgrad_part_values(params.shape);
  const SumParams sum{
      params.parts,     static_cast<int32_t>(parts), values,           params.grad_offset,
      params.grad_mask, params.offset.dtype,         params.mask.dtype};
  return launch_kernel<dcn_owgrad_sum_kernel>(static_cast<unsigned>(tiles_of(values, kThreads)),
                                              kThreads, 0, stream, sum);
}

}  // namespace dcn
