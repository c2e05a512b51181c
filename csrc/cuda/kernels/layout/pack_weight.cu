// Packs the weight for the fused kernels: a warp has a row of the tiles of a slice, tap after tap,
// and a lane 4 bytes of it, so that loads of consecutive channels and all stores are coalesced.
//
// Rows are output channels, 128 bytes of gemm_k each, in tiles: [group][step][part][tile], steps in
// the order of fused_layout.h, so that a kernel whose tiles are wider finds several side by side;
// weight_order.cuh says what lies where in a tile.
//
// For mma.sync the order is [group][tile][step], and a tile holds vectors instead of rows, each for
// one lane and load (fused_mma.cuh): [half slice][part][8 output channels][lane], channels of
// gemm_k in their natural order.
#include <algorithm>
#include <type_traits>

#include "../fused/fused_params.h"
#include "../kernel_setup.h"
#include "../ptx_sm90.cuh"
#include "../with_math.h"
#include "pack_columns.cuh"
#include "prefetch.cuh"

namespace dcn {
namespace {

// Where a lane's 4 bytes go.
template <bool kForMmaSync>
__device__ __forceinline__ int32_t byte_of_tile(int32_t row, int32_t lane, int32_t half_bytes,
                                                bool narrow) {
  if (!kForMmaSync) return row * kSliceBytes + byte_of_row(row, lane, narrow);
  return lane / 16 * half_bytes + (row / 8 * 32 + row % 8 * 4) * kVectorBytes + lane % 16 * 4;
}

constexpr int kRows = 8;  // of a block, a warp each
constexpr int kThreads = kRows * 32;
constexpr int kTapsAtOnce = 9;  // whose loads are on their way together

// The type of a load.
template <typename T>
struct Loads {
  using Of = T;
};

template <class Math, int kParts, bool kForMmaSync>
__global__ void __launch_bounds__(kThreads)
    dcn_pack_weight_kernel(const __grid_constant__ PackWalk params) {
  using Element = typename Math::Element;
  using Bits = std::conditional_t<sizeof(Element) == 2, uint16_t, uint32_t>;
  constexpr int kChannels = 4 / sizeof(Element);  // of a lane
  ptx::launch_dependents();
  prefetch_parts(params);
  if (blockIdx.z > 0) return;  // it has asked for its part, and packs nothing
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;
  zero_counters(params);

  const int32_t tile = params.units.quotient(blockIdx.x);  // of the groups' output channels
  const int32_t unit = blockIdx.x - tile * params.units.value;
  const int32_t chunk_of_all = params.slices.quotient(unit);
  const int32_t slice = unit - chunk_of_all * params.slices.value;
  const int32_t block = params.chunks.quotient(chunk_of_all);
  const int32_t first_tap = (chunk_of_all - block * params.chunks.value) * layout.chunk_taps;
  const int32_t taps = min(layout.chunk_taps, shape.taps() - first_tap);

  const int32_t group = params.channel_tiles.quotient(tile);
  const int32_t tile_in_group = tile - group * params.channel_tiles.value;
  const int32_t lane = threadIdx.x % 32, row = blockIdx.y * kRows + threadIdx.x / 32;
  const int32_t k = tile_in_group * params.tile_channels + tile_channel(row);
  const int32_t own = params.merged.outputs.quotient(k);
  const int32_t own_k = k - own * params.merged.outputs.value;
  const Element* from[kChannels];
  bool exists[kChannels];
#pragma unroll
  for (int e = 0; e < kChannels; ++e) {
    const int32_t in_block = (slice * 32 + lane) * kChannels + e;
    const int32_t padded = block * layout.block_channels + in_block;
    const int32_t of_all = layout.padded() ? unpadded_channel(layout, padded) : padded;
    // Where k and c are of different groups, it is beyond.
    const int32_t c = of_all - own * params.merged.channels.value;
    exists[e] = k < shape.output_channels_per_group() && in_block < layout.block_channels &&
                of_all >= 0 && static_cast<uint32_t>(c) < params.merged.channels.value;
    from[e] = static_cast<const Element*>(params.weight) +
              (group * params.merged.count + own) * params.stride_g + own_k * params.stride_k +
              c * params.stride_c;
  }

  const int32_t tile_bytes = params.tile_channels * kSliceBytes;
  const int32_t tiles_of_step = kForMmaSync ? 1 : params.channel_tiles.value;
  const int32_t part_bytes = kForMmaSync ? tile_bytes / 2 : tiles_of_step * tile_bytes;
  const int64_t step_bytes = int64_t{kParts} * tiles_of_step * tile_bytes;
  const int32_t step =
      block * layout.slices * shape.taps() + first_tap * layout.slices + slice * taps;
  uint8_t* to = static_cast<uint8_t*>(params.packed) +
                (int64_t{kForMmaSync ? tile : group} * layout.steps + step) * step_bytes +
                (kForMmaSync ? 0 : tile_in_group * tile_bytes) +
                byte_of_tile<kForMmaSync>(row, lane, kParts * part_bytes, layout.narrow);
  const auto pack = [&](auto loads) {
    using Load = typename decltype(loads)::Of;
    constexpr int kLoads = 4 / sizeof(Load);
#pragma unroll 1
    for (int32_t first = 0; first < taps; first += kTapsAtOnce) {
      const int32_t count = min(taps - first, kTapsAtOnce);
      const int32_t r = params.kernel_width.quotient(first_tap + first);
      int32_t s = first_tap + first - r * shape.S;
      int64_t offset = r * params.stride_r + s * params.stride_s;
      uint32_t loaded[kTapsAtOnce][kLoads] = {};
#pragma unroll
      for (int i = 0; i < kTapsAtOnce; ++i) {
        if (i == count) break;
#pragma unroll
        for (int e = 0; e < kLoads; ++e) {
          if (exists[e]) loaded[i][e] = __ldg(reinterpret_cast<const Load*>(from[e] + offset));
        }
        offset += params.stride_s;
        if (++s == shape.S) {
          s = 0;
          offset += params.stride_r - shape.S * params.stride_s;
        }
      }
#pragma unroll
      for (int i = 0; i < kTapsAtOnce; ++i) {
        if (i == count) break;
        uint32_t bits = loaded[i][0];
        if constexpr (kLoads == 2) bits |= loaded[i][1] << 16;
        const auto& weight = reinterpret_cast<const Vector<Element, kChannels>&>(bits);
        Vector<Element, kChannels> value[kParts];
#pragma unroll
        for (int e = 0; e < kChannels; ++e) Math::split(weight.lane[e], value, e);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          *reinterpret_cast<Vector<Element, kChannels>*>(to + part * part_bytes) = value[part];
        }
        to += step_bytes;
      }
    }
  };
  if (kChannels == 2 && params.pairs) {
    pack(Loads<uint32_t>{});
  } else {
    pack(Loads<Bits>{});
  }
  // The kernel behind waits for this one, and then finds the image too.
  ptx::wait_for_previous_grid();
}

// Whether that kernel is for this weight.
bool in_columns(const PackWeightParams& params) {
  const int64_t bytes = element_bytes(params.math);
  const int64_t strides = params.stride_g | params.stride_c | params.stride_r | params.stride_s |
                          params.shape.output_channels_per_group();
  return !params.for_mma_sync && params.stride_k == 1 && params.tile_channels == kPieceChannels &&
         params.layout.blocks == 1 && !params.layout.padded() && !params.layout.narrow &&
         params.merged.count == 1 && strides * bytes % kVectorBytes == 0 &&
         reinterpret_cast<uintptr_t>(params.weight) % kVectorBytes == 0;
}

// Whether two channels that follow one another lie side by side, and aligned, for every tap.
bool in_pairs(const PackWalk& params) {
  return params.stride_c == 1 && (params.layout.segment | params.merged.channels.value) % 2 == 0 &&
         (params.stride_g | params.stride_k | params.stride_r | params.stride_s) % 2 == 0 &&
         reinterpret_cast<uintptr_t>(params.weight) % 4 == 0;
}

template <class Math, int kParts, bool kForMmaSync>
cudaError_t launch_order(const PackWeightParams& params, cudaStream_t stream) {
  const FusedLayout& layout = params.layout;
  const int64_t chunks = tiles_of(params.shape.taps(), layout.chunk_taps);
  const int64_t units = layout.blocks * chunks * layout.slices;
  const int64_t channel_tiles =
      tiles_of(params.shape.output_channels_per_group(), params.tile_channels);
  PackWalk walk{};
  static_cast<PackWeightParams&>(walk) = params;
  walk.units = Divisor(static_cast<uint32_t>(units));
  walk.slices = Divisor(static_cast<uint32_t>(layout.slices));
  walk.chunks = Divisor(static_cast<uint32_t>(chunks));
  walk.channel_tiles = Divisor(static_cast<uint32_t>(channel_tiles));
  walk.kernel_width = Divisor(params.shape.S);
  walk.pairs = in_pairs(walk);
  if (!kForMmaSync && in_columns(params)) {
    walk.tiles = params.shape.G * channel_tiles * layout.slices * params.shape.taps();
    walk.units = Divisor(static_cast<uint32_t>(layout.slices * params.shape.taps()));
    if (params.most_ctas > 0) {
      const auto ctas = static_cast<unsigned>(
          std::min<int64_t>(tiles_of(walk.tiles, kManyTeams), params.most_ctas));
      return launch_kernel<dcn_pack_columns_kernel<Math, kParts, kManyTeams>>(
          ctas, kTeamThreads * kManyTeams, 0, stream, walk);
    }
    return launch_kernel<dcn_pack_columns_kernel<Math, kParts, 1>>(walk.tiles, kTeamThreads, 0,
                                                                   stream, walk);
  }
  dim3 grid(static_cast<unsigned>(params.shape.G * channel_tiles * units),
            params.tile_channels / kRows);
  if (params.prefetches()) grid.z = tiles_of(kPrefetchBlocks, grid.x * grid.y);
  return launch_kernel<dcn_pack_weight_kernel<Math, kParts, kForMmaSync>>(
      grid, kThreads, 0, stream, walk, params.beside_conversion);
}

template <class Math>
cudaError_t launch(const PackWeightParams& params, cudaStream_t stream) {
  constexpr int kParts = weight_parts(Math::kKind);
  if (params.for_mma_sync) return launch_order<Math, kParts, true>(params, stream);
  return params.whole ? launch_order<Math, 1, false>(params, stream)
                      : launch_order<Math, kParts, false>(params, stream);
}

}  // namespace

cudaError_t launch_pack_weight(const PackWeightParams& params, cudaStream_t stream) {
  return with_math(params.math,
                   [&](auto arithmetic) { return launch<decltype(arithmetic)>(params, stream); });
}

}  // namespace dcn
