// Sums of the columns of a row-major matrix: the bias gradient is that of grad [pixels, K] in NHWC.
//
// Two launches of one kernel: slabs of rows to partial sums, then the partial sums to the result,
// each in a fixed order. Bound by reading the matrix once.
#include "../sampling.cuh"

namespace dcn {
namespace {

// The sums of f32 are f64: the operator waits for memory, so that costs nothing and a long column
// loses nothing.
template <typename From>
struct SumOf {
  using type = typename CoordOf<From>::type;
};
template <>
struct SumOf<float> {
  using type = double;
};

constexpr int kColumns = 32;
constexpr int kRowThreads = kSlabRows / 4;

template <typename From, typename To>
__global__ void __launch_bounds__(kColumns* kRowThreads)
    dcn_column_sum_kernel(const From* from, To* to, int64_t rows, int32_t columns) {
  using Sum = typename SumOf<From>::type;
  __shared__ Sum sums[kRowThreads][kColumns];
  const int32_t column = blockIdx.x * kColumns + threadIdx.x;
  const int64_t slab_rows = (rows + gridDim.y - 1) / gridDim.y;
  const int64_t first = blockIdx.y * slab_rows;
  const int64_t end = first + slab_rows < rows ? first + slab_rows : rows;
  Sum sum(0);
  if (column < columns) {
#pragma unroll 4
    for (int64_t row = first + threadIdx.y; row < end; row += kRowThreads) {
      sum += Sum(widen(from[row * columns + column]));
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int i = 1; i < kRowThreads; ++i) sum += sums[i][threadIdx.x];
  narrow(sum, to[int64_t{blockIdx.y} * columns + column]);
}

template <typename From, typename To>
void launch(const void* from, void* to, int64_t rows, int32_t columns, int64_t slabs,
            cudaStream_t stream) {
  const dim3 grid((columns + kColumns - 1) / kColumns, static_cast<unsigned>(slabs));
  dcn_column_sum_kernel<From, To><<<grid, dim3(kColumns, kRowThreads), 0, stream>>>(
      static_cast<const From*>(from), static_cast<To*>(to), rows, columns);
}

template <typename Element>
void launch_both(const ColumnSumParams& params, cudaStream_t stream) {
  using Sum = typename SumOf<Element>::type;
  const int64_t slabs = column_sum_slabs(params.rows);
  launch<Element, Sum>(params.from, params.partial, params.rows, params.columns, slabs, stream);
  launch<Sum, Element>(params.partial, params.to, slabs, params.columns, 1, stream);
}

}  // namespace

cudaError_t launch_column_sum(const ColumnSumParams& params, cudaStream_t stream) {
  if (params.rows == 0 || params.columns == 0) return cudaSuccess;
  switch (params.dtype) {
    case Dtype::kF64:
      launch_both<double>(params, stream);
      break;
    case Dtype::kF32:
      launch_both<float>(params, stream);
      break;
    case Dtype::kF16:
      launch_both<__half>(params, stream);
      break;
    case Dtype::kBF16:
      launch_both<__nv_bfloat16>(params, stream);
      break;
    default:
      throw std::logic_error("no column sum for this dtype");
  }
  return cudaGetLastError();
}

}  // namespace dcn
