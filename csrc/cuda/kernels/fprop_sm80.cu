// The switch over kinds of arithmetic; each is compiled in a file of its own (fprop_sm80_*.cu).
#include "fused_math.cuh"
#include "fused_params.h"

namespace dcn {

template <class Math>
cudaError_t launch_fprop_sm80_math(const FpropParams& params, int tile, int multiprocessors,
                                   cudaStream_t stream);

cudaError_t launch_fprop_sm80(const FpropParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream) {
  switch (math) {
    case FusedMath::kF16:
      return launch_fprop_sm80_math<MathF16>(params, tile, multiprocessors, stream);
    case FusedMath::kBF16:
      return launch_fprop_sm80_math<MathBF16>(params, tile, multiprocessors, stream);
    case FusedMath::kTf32:
      return launch_fprop_sm80_math<MathTf32>(params, tile, multiprocessors, stream);
    case FusedMath::k3xTf32:
      return launch_fprop_sm80_math<Math3xTf32>(params, tile, multiprocessors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
