// The choice of a tile, and the switch over kinds of arithmetic; each is compiled in a file of its
// own (ograd_sm90_*.cu).
#include "fused_math.cuh"
#include "ograd_params.h"

namespace dcn {

template <class Math, int kTile = 0>
cudaError_t launch_ograd_math(const OgradParams& params, OgradChoice choice, int multiprocessors,
                              cudaStream_t stream);

cudaError_t launch_ograd_sm90(const OgradParams& params, FusedMath math, int multiprocessors,
                              cudaStream_t stream) {
  const OgradChoice choice = plan_ograd(params.shape, math, multiprocessors);
  switch (math) {
    case FusedMath::kF16:
      return launch_ograd_math<MathF16>(params, choice, multiprocessors, stream);
    case FusedMath::kBF16:
      return launch_ograd_math<MathBF16>(params, choice, multiprocessors, stream);
    case FusedMath::kTf32:
      return launch_ograd_math<MathTf32>(params, choice, multiprocessors, stream);
    case FusedMath::k3xTf32:
      return launch_ograd_math<Math3xTf32>(params, choice, multiprocessors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
