#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_weight_sum_math<MathF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_store_input_math<MathF16>(ScatterParams, cudaStream_t);

}  // namespace dcn
