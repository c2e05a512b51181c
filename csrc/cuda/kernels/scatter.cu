// The switch over kinds of arithmetic; each is compiled in a file of its own (scatter_*.cu).
#include "fused_math.cuh"
#include "scatter_params.h"

namespace dcn {

template <class Math>
cudaError_t launch_scatter_math(ScatterParams params, cudaStream_t stream);

cudaError_t launch_scatter(const ScatterParams& params, FusedMath math, cudaStream_t stream) {
  switch (math) {
    case FusedMath::kF16:
      return launch_scatter_math<MathF16>(params, stream);
    case FusedMath::kBF16:
      return launch_scatter_math<MathBF16>(params, stream);
    case FusedMath::kTf32:
      return launch_scatter_math<MathTf32>(params, stream);
    case FusedMath::k3xTf32:
      return launch_scatter_math<Math3xTf32>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
