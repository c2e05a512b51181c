#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathTf32>(ScatterParams, cudaStream_t);
template cudaError_t launch_transpose_grad_math<MathTf32>(ScatterParams, cudaStream_t, bool);
template cudaError_t launch_scatter_results_math<MathTf32>(ScatterParams, cudaStream_t);

}  // namespace dcn
