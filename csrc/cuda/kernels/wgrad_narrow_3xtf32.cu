#include "wgrad_narrow.cuh"

namespace dcn {

template cudaError_t launch_wgrad_narrow_math<Math3xTf32>(WgradNarrowParams, cudaStream_t);

}  // namespace dcn
