// NCHW <-> NHWC at the border: a transpose of [batch, rows, cols] to [batch, cols, rows], with a
// cast on the way.
//
// Tiles through shared memory, so that both sides are read and written along their contiguous axis,
// in vectors of 16 bytes where rows are aligned to them. Bound by device memory.
#include <algorithm>
#include <cstring>

#include "../ptx_sm90.cuh"
#include "../sampling.cuh"

namespace dcn {
namespace {

// Numbers of 2 or 4 bytes, which stay what they are. A word of shared memory holds 4 bytes of a
// column: numbers of two rows, or of one. A tile has 32 words a column; a warp reads 4 words of 8
// vectors of columns, and writes 8 vectors of rows of 4 columns. Vectors of a column change places,
// so that neither meets a bank twice.
constexpr int kWords = 32;
constexpr int kVectorThreads = 256;
constexpr int kColumnLanes = 8;  // that read a row
template <typename Bits>
struct VectorTile {
  static constexpr int kVec = 16 / sizeof(Bits);      // numbers of a vector
  static constexpr int kPacked = 4 / sizeof(Bits);    // numbers of a word
  static constexpr int kRows = kWords * kPacked;      // of a tile
  static constexpr int kColumns = 64;                 // of a tile
  static constexpr int kBlock = kColumnLanes * kVec;  // columns that a warp reads at once
};

template <typename Bits, bool kAligned>
__device__ __forceinline__ void read_row(const Bits* row, int32_t col, int32_t cols, bool exists,
                                         Bits (&value)[16 / sizeof(Bits)]) {
  constexpr int kVec = 16 / sizeof(Bits);
  if constexpr (kAligned) {
    uint4 vector = {};
    if (exists && col < cols) vector = __ldg(reinterpret_cast<const uint4*>(row + col));
    memcpy(value, &vector, sizeof vector);
  } else {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      value[i] = exists && col + i < cols ? __ldg(row + col + i) : Bits{0};
    }
  }
}

// kAlignedRows: rows of the source begin at whole vectors; kAlignedColumns: those of the result.
template <typename Bits, bool kAlignedRows, bool kAlignedColumns>
__global__ void __launch_bounds__(kVectorThreads)
    dcn_layout_vectors_kernel(const TransposeParams params, int32_t col_tiles) {
  using Tile = VectorTile<Bits>;
  constexpr int kVec = Tile::kVec, kPacked = Tile::kPacked;
  constexpr int kBlocks = Tile::kColumns / Tile::kBlock;
  __shared__ uint4 tile[Tile::kColumns][kWords / 4];
  ptx::launch_dependents();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t row0 = static_cast<int32_t>(blockIdx.x / col_tiles) * Tile::kRows;
  const int32_t col0 = static_cast<int32_t>(blockIdx.x % col_tiles) * Tile::kColumns;
  for (int64_t b = blockIdx.y; b < params.batch; b += gridDim.y) {
    const int64_t base = b * params.rows * params.cols;
    const Bits* from = static_cast<const Bits*>(params.from) + base;
    Bits* to = static_cast<Bits*>(params.to) + base;
    const int column_lane = lane % kColumnLanes;
    Bits value[kBlocks][kPacked][kVec];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int k = 0; k < kPacked; ++k) {
        const int32_t row = row0 + (warp * 4 + lane / kColumnLanes) * kPacked + k;
        const int32_t col = col0 + block * Tile::kBlock + column_lane * kVec;
        read_row<Bits, kAlignedRows>(from + int64_t{row} * params.cols, col, params.cols,
                                     row < params.rows, value[block][k]);
      }
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        Bits packed[kPacked];
#pragma unroll
        for (int k = 0; k < kPacked; ++k) packed[k] = value[block][k][i];
        uint32_t word;
        memcpy(&word, packed, sizeof word);
        const int column = block * Tile::kBlock + column_lane * kVec + i;
        reinterpret_cast<uint32_t*>(&tile[column][warp ^ column_lane])[lane / kColumnLanes] = word;
      }
    }
    __syncthreads();
#pragma unroll
    for (int column = threadIdx.x / 8; column < Tile::kColumns; column += kVectorThreads / 8) {
      const uint4 vector = tile[column][lane % 8 ^ column / kVec % kColumnLanes];
      const int32_t row = row0 + lane % 8 * kVec, col = col0 + column;
      if (col >= params.cols || row >= params.rows) continue;
      Bits* const at = to + int64_t{col} * params.rows + row;
      if constexpr (kAlignedColumns) {
        *reinterpret_cast<uint4*>(at) = vector;
      } else {
        Bits single[kVec];
        memcpy(single, &vector, sizeof vector);
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          if (row + i < params.rows) at[i] = single[i];
        }
      }
    }
    __syncthreads();
  }
}

constexpr int64_t kMaxBatchBlocks = 65535;  // limit of a grid's second axis
dim3 grid_of(const TransposeParams& params, int64_t row_tiles, int64_t col_tiles) {
  return dim3(static_cast<unsigned>(row_tiles * col_tiles),
              static_cast<unsigned>(std::min<int64_t>(params.batch, kMaxBatchBlocks)));
}

template <typename Bits, bool kAlignedRows, bool kAlignedColumns>
void launch_aligned(const TransposeParams& params, cudaStream_t stream) {
  using Tile = VectorTile<Bits>;
  const int64_t row_tiles = (params.rows + Tile::kRows - 1) / Tile::kRows;
  const int64_t col_tiles = (params.cols + Tile::kColumns - 1) / Tile::kColumns;
  dcn_layout_vectors_kernel<Bits, kAlignedRows, kAlignedColumns>
      <<<grid_of(params, row_tiles, col_tiles), kVectorThreads, 0, stream>>>(
          params, static_cast<int32_t>(col_tiles));
}

template <typename Bits>
void launch_vectors(const TransposeParams& params, cudaStream_t stream) {
  constexpr int kVec = VectorTile<Bits>::kVec;
  const auto aligned = [](const void* data, int32_t length) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && length % kVec == 0;
  };
  const bool rows = aligned(params.from, params.cols), columns = aligned(params.to, params.rows);
  const auto launch =
      rows      ? columns ? launch_aligned<Bits, true, true> : launch_aligned<Bits, true, false>
           : columns ? launch_aligned<Bits, false, true>
                : launch_aligned<Bits, false, false>;
  launch(params, stream);
}

// Numbers that change their type, or have 8 bytes.
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
  dcn_layout_transpose_kernel<From, To>
      <<<grid_of(params, row_tiles, col_tiles), dim3(kTile, kTileThreads), 0, stream>>>(
          params, static_cast<int32_t>(col_tiles));
}

}  // namespace

cudaError_t launch_transpose(const TransposeParams& params, cudaStream_t stream) {
  if (params.batch == 0 || params.rows == 0 || params.cols == 0) return cudaSuccess;
  const auto is = [&](Dtype from, Dtype to) {
    return params.from_dtype == from && params.to_dtype == to;
  };
  if (is(Dtype::kF64, Dtype::kF64)) {
    launch<double, double>(params, stream);
  } else if (params.from_dtype == params.to_dtype) {
    const auto vectors =
        size_of(params.from_dtype) == 2 ? launch_vectors<uint16_t> : launch_vectors<uint32_t>;
    vectors(params, stream);
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
