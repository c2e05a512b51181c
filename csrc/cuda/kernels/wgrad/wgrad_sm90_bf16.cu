#include "wgrad_sm90.cuh"

namespace dcn {

template cudaError_t launch_wgrad_math<MathBF16>(const WgradParams&, cudaStream_t);

}  // namespace dcn
