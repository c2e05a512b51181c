// The kernels of the weight gradient that the emulator runs with 16-bit arithmetic.
#include "cuda/kernels/wgrad/wgrad_sm90.cuh"

namespace dcn {

template cudaError_t launch_wgrad_math<MathF16>(const WgradParams&, cudaStream_t);
template cudaError_t launch_wgrad_math<MathBF16>(const WgradParams&, cudaStream_t);

}  // namespace dcn
