// NCHW <-> NHWC at the border: a transpose of [batch, rows, cols] to [batch, cols, rows], with a
// cast on the way.
//
// 32 x 32 tiles through shared memory, so that both sides are read and written along their
// contiguous axis. Bound by device memory.
#include "sampling.cuh"

namespace dcn {
namespace {

constexpr int kTile = 32;
constexpr int kTileThreads = 8;  // rows of threads: each thread moves kTile / kTileThreads values

template <typename From, typename To>
__global__ void __launch_bounds__(kTile* kTileThreads)
    dcn_layout_transpose_kernel(const TransposeParams params, int32_t col_tiles) {
  using Wide = typename CoordOf<From>::type;
  __shared__ From tile[kTile][kTile + 1];  // the odd row length keeps columns out of one bank
  const int32_t row0 = static_cast<int32_t>(blockIdx.x / col_tiles) * kTile;
  const int32_t col0 = static_cast<int32_t>(blockIdx.x % col_tiles) * kTile;
  for (int64_t b = blockIdx.y; b < params.batch; b += gridDim.y) {
    const int64_t base = b * params.rows * params.cols;
    const From* from = static_cast<const From*>(params.from) + base;
    To* to = static_cast<To*>(params.to) + base;
#pragma unroll
    for (int i = threadIdx.y; i < kTile; i += kTileThreads) {
      const int32_t row = row0 + i, col = col0 + threadIdx.x;
      if (row < params.rows && col < params.cols) {
        tile[i][threadIdx.x] = from[int64_t{row} * params.cols + col];
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.y; i < kTile; i += kTileThreads) {
      const int32_t row = row0 + threadIdx.x, col = col0 + i;
      if (row < params.rows && col < params.cols) {
        narrow(Wide(widen(tile[threadIdx.x][i])), to[int64_t{col} * params.rows + row]);
      }
    }
    __syncthreads();
  }
}

template <typename From, typename To>
void launch(const TransposeParams& params, cudaStream_t stream) {
  const int64_t row_tiles = (params.rows + kTile - 1) / kTile;
  const int64_t col_tiles = (params.cols + kTile - 1) / kTile;
  constexpr int64_t kMaxBatchBlocks = 65535;  // limit of a grid's second axis
  const dim3 grid(
      static_cast<unsigned>(row_tiles * col_tiles),
      static_cast<unsigned>(params.batch < kMaxBatchBlocks ? params.batch : kMaxBatchBlocks));
  dcn_layout_transpose_kernel<From, To>
      <<<grid, dim3(kTile, kTileThreads), 0, stream>>>(params, static_cast<int32_t>(col_tiles));
}

}  // namespace

cudaError_t launch_transpose(const TransposeParams& params, cudaStream_t stream) {
  if (params.batch == 0 || params.rows == 0 || params.cols == 0) return cudaSuccess;
  const auto is = [&](Dtype from, Dtype to) {
    return params.from_dtype == from && params.to_dtype == to;
  };
  if (is(Dtype::kF64, Dtype::kF64)) {
    launch<double, double>(params, stream);
  } else if (is(Dtype::kF32, Dtype::kF32)) {
    launch<float, float>(params, stream);
  } else if (is(Dtype::kF16, Dtype::kF16)) {
    launch<__half, __half>(params, stream);
  } else if (is(Dtype::kBF16, Dtype::kBF16)) {
    launch<__nv_bfloat16, __nv_bfloat16>(params, stream);
  } else if (is(Dtype::kF32, Dtype::kF16)) {
    launch<float, __half>(params, stream);
  } else if (is(Dtype::kF32, Dtype::kBF16)) {
    launch<float, __nv_bfloat16>(params, stream);
  } else {
    throw std::logic_error(std::string("no transpose from ") + name_of(params.from_dtype) + " to " +
                           name_of(params.to_dtype));
  }
  return cudaGetLastError();
}

}  // namespace dcn
