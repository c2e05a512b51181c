#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathBF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_scatter_results_math<MathBF16>(ScatterParams, cudaStream_t);

}  // namespace dcn
