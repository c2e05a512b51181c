// The switch over kinds of arithmetic; each is compiled in a file of its own (wgrad_narrow_*.cu).
#include "fused_math.cuh"
#include "wgrad_narrow_params.h"

namespace dcn {

template <class Math>
cudaError_t launch_wgrad_narrow_math(WgradNarrowParams params, cudaStream_t stream);

cudaError_t launch_wgrad_narrow(const WgradNarrowParams& params, FusedMath math,
                                cudaStream_t stream) {
  switch (math) {
    case FusedMath::kF16:
      return launch_wgrad_narrow_math<MathF16>(params, stream);
    case FusedMath::kBF16:
      return launch_wgrad_narrow_math<MathBF16>(params, stream);
    case FusedMath::kTf32:
      return launch_wgrad_narrow_math<MathTf32>(params, stream);
    case FusedMath::k3xTf32:
      return launch_wgrad_narrow_math<Math3xTf32>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
