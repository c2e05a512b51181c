#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<Math3xTf32>(ScatterParams, cudaStream_t);
template cudaError_t launch_transpose_grad_math<Math3xTf32>(ScatterParams, cudaStream_t, bool);
template cudaError_t launch_scatter_results_math<Math3xTf32>(ScatterParams, cudaStream_t);

}  // namespace dcn
