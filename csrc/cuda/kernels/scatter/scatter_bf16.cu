#include "scatter.cuh"

namespace dcn {

template cudaError_t launch_scatter_math<MathBF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_weight_sum_math<MathBF16>(ScatterParams, cudaStream_t);
template cudaError_t launch_store_input_math<MathBF16>(ScatterParams, cudaStream_t);

}  // namespace dcn
