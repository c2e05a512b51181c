#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_transpose_grad_math<MathF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_weight_sum_math<MathF16>(ScatterParams, cudaStream_t);

}  // namespace dcn
