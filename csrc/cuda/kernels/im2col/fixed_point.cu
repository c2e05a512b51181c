// NOTE [input gradient in fixed point]
//
// What PyTorch's deterministic mode takes in place of col2im's f32 atomics: contributions are
// rounded to a unit and added by integer atomics, which commute (fixed_point.h).
//
//   bound    the largest finite |grad_out|, |weight| and |mask|, from which every thread of the
//            other kernels finds the unit: the host waits for nothing
//   scatter  columns' gradients of a chunk to the four corners of their samples. A pass of its own
//            before col2im, since a lane has one channel here: the words of consecutive lanes are
//            then neighbours, and an atomic instruction touches no more sectors than it fills
//   store    words to the gradient in its own type
//
// The scatter is bound by its atomics: 32 bytes for each value of the columns (64 in f64).
#include <algorithm>

#include "../kernel_setup.h"
#include "../sampling.cuh"
#include "fixed_point_params.h"

namespace dcn {
namespace {

constexpr int kMostBlocks = 2048;

inline dim3 blocks_for(int64_t pieces) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(pieces, 1, kMostBlocks)));
}

// A block takes pieces of rows: neighbours for a warp, and several loads on their way a thread.
constexpr int kLoads = 8;
constexpr int kPiece = kLoads * kThreads;

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dcn_dgrad_fixed_point_bound_kernel(const LargestParams params) {
  using Coord = typename CoordOf<Element>::type;
  const Element* values = static_cast<const Element*>(params.values.data);
  const int64_t pieces = tiles_of(params.width, kPiece);
  const int64_t count = int64_t{params.images} * params.channels * params.height * pieces;
  Coord largest(0);
  for (int64_t piece = blockIdx.x; piece < count; piece += gridDim.x) {
    const int64_t row = piece / pieces, map = row / params.height;
    const auto n = static_cast<int32_t>(map / params.channels);
    const auto channel = static_cast<int32_t>(map - int64_t{n} * params.channels);
    const auto y = static_cast<int32_t>(row - map * params.height);
    const int64_t first = (piece - row * pieces) * kPiece + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t x = first + i * kThreads;
      if (x >= params.width) continue;
      const OutputPixel at{n, y, static_cast<int32_t>(x)};
      const Coord value = fabs(Coord(widen(values[map_index(params.values, at, channel)])));
      if (is_finite(value) && value > largest) largest = value;
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Coord other = __shfl_xor_sync(0xffffffffu, largest, step);
    if (other > largest) largest = other;
  }
  // Bits of numbers that are not negative are ordered as the numbers are. Most warps see a larger
  // one there: atomics of all to one address would take turns.
  const double wide = largest;
  unsigned long long bits;
  memcpy(&bits, &wide, sizeof bits);
  if (threadIdx.x % 32 == 0 && bits > __ldcg(params.largest)) atomicMax(params.largest, bits);
}

template <typename Coord>
__device__ __forceinline__ void add_term(unsigned long long* sum, int64_t second_word,
                                         const FixedPoint<Coord>& fixed, Coord term) {
  if (!is_finite(term)) {
    atomicOr(sum, static_cast<unsigned long long>(infinities_of(term)));
    return;
  }
  int64_t words[FixedPoint<Coord>::kWords];
  fixed.to_words(term, words);
#pragma unroll
  for (int word = 0; word < FixedPoint<Coord>::kWords; ++word) {
    atomicAdd(sum + word * second_word, static_cast<unsigned long long>(words[word]));
  }
}

}  // namespace

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dcn_dgrad_fixed_point_scatter_kernel(const FixedPointScatterParams params) {
  using Coord = typename CoordOf<Element>::type;
  extern __shared__ __align__(16) uint8_t shared_memory[];
  auto* planned = reinterpret_cast<PlannedSample<Coord>*>(shared_memory);
  const ColumnParams& chunk = params.chunk;
  const ConvShape& shape = chunk.shape;
  const Tile tile = this_tile(chunk);
  plan_tile<Coord>(chunk, tile, planned);

  const FixedPoint<Coord> fixed(fixed_point_unit<Coord>(params.bound));
  const Element* columns = static_cast<const Element*>(chunk.columns);
  const int64_t second_word = shape.input_pixels() * shape.C;
  const int32_t channels = shape.channels_per_offset_group();
  const int32_t lane = threadIdx.x & (params.lanes - 1);
  for (int32_t i = threadIdx.x / params.lanes; i < tile.samples(); i += kThreads / params.lanes) {
    const PlannedSample<Coord> at = planned[i];
    if (at.corners == 0) continue;
    for (int32_t c = lane; c < channels; c += params.lanes) {
      const Coord gcol = Coord(widen(columns[column_element(shape, tile, at, i, c)]));
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        // A corner of weight zero is touched by no gradient, Inf and NaN included.
        if (!at.has(k) || at.weight[k] == Coord(0)) continue;
        add_term(params.sums + at.from + Sample<Coord>::corner_step(k, shape.W) * shape.C + c,
                 second_word, fixed, at.weight[k] * gcol);
      }
    }
  }
}

namespace {

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dcn_dgrad_fixed_point_store_kernel(const FixedPointStoreParams params) {
  using Coord = typename CoordOf<Element>::type;
  constexpr int kWords = FixedPoint<Coord>::kWords;
  const FixedPoint<Coord> fixed(fixed_point_unit<Coord>(params.bound));
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < params.count;
       i += int64_t{gridDim.x} * kThreads) {
    uint64_t words[kWords];
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = params.sums[i + word * params.count];
    narrow(fixed.from_words(words), static_cast<Element*>(params.gradient)[i]);
  }
}

template <typename Params>
cudaError_t launch(void (*kernel)(Params), dim3 grid, size_t shared_bytes, cudaStream_t stream,
                   const Params& params) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, params);
}

template <typename Call>
cudaError_t with_element(Dtype dtype, Call&& call) {
  switch (dtype) {
    case Dtype::kF64:
      return call(double());
    case Dtype::kF32:
      return call(float());
    case Dtype::kF16:
      return call(__half());
    case Dtype::kBF16:
      return call(__nv_bfloat16());
  }
  throw std::logic_error("no fixed point for this dtype");
}

}  // namespace

cudaError_t launch_largest(const LargestParams& params, cudaStream_t stream) {
  const int64_t rows = int64_t{params.images} * params.channels * params.height;
  return with_element(params.values.dtype, [&](auto element) {
    return launch(dcn_dgrad_fixed_point_bound_kernel<decltype(element)>,
                  blocks_for(rows * tiles_of(params.width, kPiece)), 0, stream, params);
  });
}

cudaError_t launch_fixed_point_scatter(FixedPointScatterParams params, cudaStream_t stream) {
  const ColumnParams& chunk = params.chunk;
  if (chunk.pixels == 0) return cudaSuccess;
  params.lanes = lanes_per_sample(chunk.shape.channels_per_offset_group());
  return with_element(chunk.dtype, [&](auto element) {
    using Element = decltype(element);
    using Coord = typename CoordOf<Element>::type;
    return launch(dcn_dgrad_fixed_point_scatter_kernel<Element>, tile_grid(chunk),
                  tile_bytes<Coord>(chunk), stream, params);
  });
}

cudaError_t launch_fixed_point_store(const FixedPointStoreParams& params, cudaStream_t stream) {
  return with_element(params.dtype, [&](auto element) {
    return launch(dcn_dgrad_fixed_point_store_kernel<decltype(element)>,
                  blocks_for(tiles_of(params.count, kThreads)), 0, stream, params);
  });
}

}  // namespace dcn
