// The switch over kinds of arithmetic; each is compiled in a file of its own (scatter_*.cu).
#include "scatter_params.h"
#include "../with_math.h"

namespace dcn {

template <class Math>
cudaError_t launch_scatter_math(ScatterParams params, cudaStream_t stream);
template <class Math>
cudaError_t launch_transpose_grad_math(ScatterParams params, cudaStream_t stream);
template <class Math>
cudaError_t launch_weight_sum_math(ScatterParams params, cudaStream_t stream);

cudaError_t launch_scatter(const ScatterParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_scatter_math<decltype(arithmetic)>(params, stream);
  });
}

cudaError_t launch_transpose_grad(const ScatterParams& params, FusedMath math,
                                  cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_transpose_grad_math<decltype(arithmetic)>(params, stream);
  });
}

cudaError_t launch_weight_sum(const ScatterParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_weight_sum_math<decltype(arithmetic)>(params, stream);
  });
}

}  // namespace dcn
