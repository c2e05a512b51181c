// The choice of a tile, and the switch over kinds of arithmetic; each is compiled in a file of its
// own (ograd_sm90_*.cu).
#include "../with_math.h"
#include "ograd_params.h"

namespace dcn {

template <class Math, int kTile = 0>
cudaError_t launch_ograd_math(const OgradParams& params, OgradChoice choice, int multiprocessors,
                              cudaStream_t stream);

cudaError_t launch_ograd_sm90(const OgradParams& params, FusedMath math, int multiprocessors,
                              cudaStream_t stream) {
  const OgradChoice choice = plan_ograd(params.shape, math, multiprocessors);
  return with_math(math, [&](auto arithmetic) {
    return launch_ograd_math<decltype(arithmetic)>(params, choice, multiprocessors, stream);
  });
}

}  // namespace dcn
