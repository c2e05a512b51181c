// The switch over kinds of arithmetic; each is compiled in a file of its own (wgrad_sm90_*.cu).
#include "../with_math.h"
#include "wgrad_launch.h"

namespace dcn {

template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream);

namespace {

cudaError_t launch_sums(const WgradParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_wgrad_math<decltype(arithmetic)>(params, stream);
  });
}

}  // namespace

cudaError_t launch_wgrad_sm90(WgradParams params, FusedMath math, cudaStream_t stream) {
  lay_out_steps(params);
  const cudaError_t error = launch_sums(params, math, stream);
  return error == cudaSuccess ? launch_wgrad_sum(params, math, stream) : error;
}

}  // namespace dcn
