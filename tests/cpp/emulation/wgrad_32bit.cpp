// The kernels of the weight gradient that the emulator runs with f32 values.
#include "cuda/kernels/wgrad/wgrad_f32.cuh"

namespace dcn {

template cudaError_t launch_wgrad_math<MathTf32>(const WgradParams&, cudaStream_t);
template cudaError_t launch_wgrad_math<Math3xTf32>(const WgradParams&, cudaStream_t);

}  // namespace dcn
