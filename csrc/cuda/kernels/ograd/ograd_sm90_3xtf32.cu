#include "ograd_sm90.cuh"

namespace dcn {

template cudaError_t launch_ograd_math<Math3xTf32>(const OgradParams&, OgradChoice, int,
                                                   cudaStream_t);

}  // namespace dcn
