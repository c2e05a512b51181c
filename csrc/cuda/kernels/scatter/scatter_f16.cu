#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_scatter_results_math<MathF16>(ScatterParams, cudaStream_t);

}  // namespace dcn
