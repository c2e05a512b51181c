#include "fprop_merged_sm90.cuh"

namespace dcn {

template cudaError_t launch_fprop_merged_math<MathF16>(const FpropParams&, int, int, int,
                                                       cudaStream_t);

}  // namespace dcn
