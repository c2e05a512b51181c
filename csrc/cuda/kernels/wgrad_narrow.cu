// The switch over kinds of arithmetic; each is compiled in a file of its own (wgrad_narrow_*.cu).
#include "wgrad_narrow_params.h"
#include "with_math.h"

namespace dcn {

template <class Math>
cudaError_t launch_wgrad_narrow_math(WgradNarrowParams params, cudaStream_t stream);

cudaError_t launch_wgrad_narrow(const WgradNarrowParams& params, FusedMath math,
                                cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_wgrad_narrow_math<decltype(arithmetic)>(params, stream);
  });
}

}  // namespace dcn
