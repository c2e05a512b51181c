// The switch over kinds of arithmetic; each is compiled in a file of its own (dgrad_sm90_*.cu).
#include "dgrad_params.h"
#include "fused_math.cuh"

namespace dcn {

template <class Math>
cudaError_t launch_dgrad_math(const DgradParams& params, int tile, int multiprocessors,
                              cudaStream_t stream);

cudaError_t launch_dgrad_sm90(const DgradParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream) {
  switch (math) {
    case FusedMath::kF16:
      return launch_dgrad_math<MathF16>(params, tile, multiprocessors, stream);
    case FusedMath::kBF16:
      return launch_dgrad_math<MathBF16>(params, tile, multiprocessors, stream);
    case FusedMath::kTf32:
      return launch_dgrad_math<MathTf32>(params, tile, multiprocessors, stream);
    case FusedMath::k3xTf32:
      return launch_dgrad_math<Math3xTf32>(params, tile, multiprocessors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
