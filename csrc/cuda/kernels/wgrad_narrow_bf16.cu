#include "wgrad_narrow.cuh"

namespace dcn {

template cudaError_t launch_wgrad_narrow_math<MathBF16>(WgradNarrowParams, cudaStream_t);

}  // namespace dcn
