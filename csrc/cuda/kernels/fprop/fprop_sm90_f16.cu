#include "fprop_sm90.cuh"

namespace dcn {

template cudaError_t launch_fprop_math<MathF16>(const FpropParams&, int, int, cudaStream_t);

}  // namespace dcn
