#include "wgrad_f32.cuh"

namespace dcn {

template cudaError_t launch_wgrad_math<MathTf32>(const WgradParams&, cudaStream_t);

}  // namespace dcn
