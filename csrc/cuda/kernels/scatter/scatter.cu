// The switch over kinds of arithmetic; each is compiled in a file of its own (scatter_*.cu).
#include "../with_math.h"
#include "scatter_params.h"

namespace dcn {

template <class Math>
cudaError_t launch_scatter_math(ScatterParams params, cudaStream_t stream);
template <class Math>
cudaError_t launch_transpose_grad_math(ScatterParams params, cudaStream_t stream,
                                       bool beside_previous);
template <class Math>
cudaError_t launch_scatter_results_math(ScatterParams params, cudaStream_t stream);

cudaError_t launch_scatter(const ScatterParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_scatter_math<decltype(arithmetic)>(params, stream);
  });
}

cudaError_t launch_transpose_grad(const ScatterParams& params, FusedMath math, cudaStream_t stream,
                                  bool beside_previous) {
  return with_math(math, [&](auto arithmetic) {
    using Math = decltype(arithmetic);
    if constexpr (sizeof(typename Math::Element) == 4) {
      return launch_transpose_grad_math<Math>(params, stream, beside_previous);
    } else {
      return cudaErrorInvalidValue;  // wgmma transposes
    }
  });
}

cudaError_t launch_scatter_results(const ScatterParams& params, FusedMath math,
                                   cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_scatter_results_math<decltype(arithmetic)>(params, stream);
  });
}

}  // namespace dcn
