// The switch over kinds of arithmetic; each is compiled in a file of its own (dgrad_sm90_*.cu).
#include "../with_math.h"
#include "dgrad_params.h"

namespace dcn {

template <class Math>
cudaError_t launch_dgrad_math(const DgradParams& params, int tile, int multiprocessors,
                              cudaStream_t stream);

cudaError_t launch_dgrad_sm90(const DgradParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch_dgrad_math<decltype(arithmetic)>(params, tile, multiprocessors, stream);
  });
}

}  // namespace dcn
