#include "dgrad_sm90.cuh"

namespace dcn {

template cudaError_t launch_dgrad_math<MathF16>(const DgradParams&, int, int, cudaStream_t);

}  // namespace dcn
