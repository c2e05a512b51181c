// See owgrad_sm90.cuh.
#include "owgrad_sm90.cuh"

namespace dcn {

template cudaError_t launch_owgrad_math<MathF16>(const OwgradParams&, cudaStream_t);

}  // namespace dcn
