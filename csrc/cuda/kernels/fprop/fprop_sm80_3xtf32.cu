#include "fprop_sm80.cuh"

namespace dcn {

template cudaError_t launch_fprop_sm80_math<Math3xTf32>(const FpropParams&, int, int, cudaStream_t);

}  // namespace dcn
