// The switch over kinds of arithmetic; each is compiled in a file of its own (owgrad_sm90_*.cu).
#include "../../../owgrad_plan.h"
#include "../fused/fused_math.cuh"
#include "owgrad_launch.h"

namespace dcn {

template <class Math>
cudaError_t launch_owgrad_math(const OwgradParams& params, cudaStream_t stream);

cudaError_t launch_owgrad_sm90(OwgradParams params, FusedMath math, cudaStream_t stream) {
  lay_out_steps(params);
  params.unit_slices = owgrad_slices(params.layout, kWgradTiles[params.tile]);
  cudaError_t error = math == FusedMath::kF16    ? launch_owgrad_math<MathF16>(params, stream)
                      : math == FusedMath::kBF16 ? launch_owgrad_math<MathBF16>(params, stream)
                                                 : cudaErrorInvalidValue;
  if (error == cudaSuccess) error = launch_wgrad_sum(params, math, stream);
  return error == cudaSuccess ? launch_owgrad_sum(params, stream) : error;
}

}  // namespace dcn
