// The switch over kinds of arithmetic; each is compiled in a file of its own (fprop_sm90_*.cu).
#include "../fused/fused_params.h"
#include "../with_math.h"

namespace dcn {

template <class Math>
cudaError_t launch_fprop_math(const FpropParams& params, int tile, int multiprocessors,
                              cudaStream_t stream);
template <class Math>
cudaError_t launch_fprop_merged_math(const FpropParams& params, int tile, int merged,
                                     int multiprocessors, cudaStream_t stream);

cudaError_t launch_fprop_sm90(const FpropParams& params, FusedMath math, int tile, int merged,
                              int multiprocessors, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    if (merged > 1) {
      return launch_fprop_merged_math<decltype(arithmetic)>(params, tile, merged, multiprocessors,
                                                            stream);
    }
    return launch_fprop_math<decltype(arithmetic)>(params, tile, multiprocessors, stream);
  });
}

}  // namespace dcn
