// The switch over kinds of arithmetic; each is compiled in a file of its own (wgrad_sm90_*.cu).
#include "fused_math.cuh"
#include "wgrad_launch.h"

namespace dcn {

template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream);

namespace {

cudaError_t launch_sums(const WgradParams& params, FusedMath math, cudaStream_t stream) {
  switch (math) {
    case FusedMath::kF16:
      return launch_wgrad_math<MathF16>(params, stream);
    case FusedMath::kBF16:
      return launch_wgrad_math<MathBF16>(params, stream);
    case FusedMath::kTf32:
      return launch_wgrad_math<MathTf32>(params, stream);
    case FusedMath::k3xTf32:
      return launch_wgrad_math<Math3xTf32>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_wgrad_sm90(WgradParams params, FusedMath math, cudaStream_t stream) {
  lay_out_steps(params);
  const cudaError_t error = launch_sums(params, math, stream);
  return error == cudaSuccess ? launch_wgrad_sum(params, math, stream) : error;
}

}  // namespace dcn
