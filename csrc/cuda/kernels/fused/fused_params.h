// What travels to the kernels of the fused algorithm, and their launchers; see params.h.
#pragma once

#include "../../../fast_divide.h"
#include "../../../fprop_tiles.h"
#include "../../../fused_layout.h"
#include "../params.h"

namespace dcn {

// Memory that a kernel asks for on behalf of the one behind it: whole vectors. Where there is much
// of it, it would be in the way of what that kernel loads first.
struct Prefetch {
  const void* begin = nullptr;
  int64_t bytes = 0;
};
constexpr int64_t kMostPrefetched = int64_t{8} << 20;
inline Prefetch prefetch_of(const void* data, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  const int64_t whole = (bytes - static_cast<int64_t>(first - begin)) / kVectorBytes * kVectorBytes;
  if (data == nullptr || bytes > kMostPrefetched || whole <= 0) return {};
  return {reinterpret_cast<const void*>(first), whole};
}
// Of a map whose values lie one behind the other, in either memory format.
inline Prefetch prefetch_of(const SamplingMap& map, const ConvShape& shape, int32_t channels) {
  const int64_t pixels = shape.output_pixels_per_image();
  const bool nchw = map.stride_w == 1 && map.stride_h == shape.Q && map.stride_c == pixels;
  const bool nhwc =
      map.stride_c == 1 && map.stride_w == channels && map.stride_h == int64_t{shape.Q} * channels;
  const bool images = shape.N == 1 || map.stride_n == pixels * channels;
  if ((!nchw && !nhwc) || !images) return {};
  const int size = map.dtype == Dtype::kF32 ? 4 : 2;
  return prefetch_of(map.data, shape.N * pixels * channels * size);
}

// Convolution groups of a weight that run as one: how many, and what each has of channels.
struct MergedGroups {
  int32_t count = 1;
  Divisor channels, outputs;

  MergedGroups() = default;
  // `shape`: of the run, of which they are one group.
  MergedGroups(const ConvShape& shape, int32_t count)
      : count(count),
        channels(shape.channels_per_group() / count),
        outputs(shape.output_channels_per_group() / count) {}
};

// The weight in the order of the steps: [G, steps, parts, tiles of K/G, tile rows, 128 bytes]
// for 9.0; [G, tiles of K/G, steps, parts, ...] for mma.sync. Two parts for 3xTF32 (leading and
// trailing), or one, which is split later.
struct PackWeightParams {
  ConvShape shape;
  FusedLayout layout;
  FusedMath math;
  const void* weight;                                        // [K, C/G, R, S]
  int64_t stride_g, stride_k, stride_c, stride_r, stride_s;  // g: of the weight
  int32_t tile_channels;
  bool for_mma_sync;       // the order of fprop_sm80, otherwise that of fprop_sm90
  bool beside_conversion;  // the kernel before converts the image, of which this one needs nothing
  MergedGroups merged;
  bool whole;            // 3xTF32: in one part
  Prefetch prefetch[4];  // in this order, or none
  bool prefetches() const {
    return (prefetch[0].bytes | prefetch[1].bytes | prefetch[2].bytes | prefetch[3].bytes) != 0;
  }
  void* packed;
  int32_t* counters;  // zeroed, or null
  int32_t counter_count;
  int32_t most_ctas;  // large ones, if it can, beside a kernel that fills the rest; 0: any
};

// How a row of a tile is found in the output; made by pixel_walk (fused_samples.cuh).
struct PixelWalk {
  uint32_t cell_height = 0, last_strip = 0;
  uint32_t last_left = 0, last_width = 0;  // of the last cell of a strip; 2^16 / width, rounded up
  Divisor image, strip, cell, last_cell;
};

// The same for tiles that are cells (WindowCells).
struct CellWalk {
  int32_t tall_tiles, tall_rows, rows;
  Divisor columns, tall_strips, strips;  // of an image: of tall cells, and of the others
};

struct FpropParams {
  ConvShape shape;
  FusedLayout layout;
  // What follows from the shape and the tile, set by the launcher.
  uint32_t pixels;                                          // of the output
  int32_t pixel_tiles;                                      // of the output pixels
  PixelWalk walk;                                           // or one that is given
  CellWalk cells;                                           // of tiles for narrow offset groups
  Divisor channel_tiles, kernel_width, taps, offset_group;  // tiles of a group; S; R * S; channels
  int32_t part_steps, longer_parts;  // steps of a part of split_k; parts that have one more

  const void* input;  // [N, H, W, layout.channels], vectors aligned
  SamplingMap offset, mask;
  const void* weight;  // packed
  bool prepacked;      // not by the kernel before
  bool converted;      // the image, by what came before the weight was packed
  bool whole;          // the weight of 3xTF32: packed in one part
  const void* bias;    // [K], or null
  void* output;        // [N, P, Q, K], or [N, K, P, Q] where nchw
  bool nchw;
  int32_t split_k;      // CTAs that share a tile, each with a part of the steps
  int32_t weight_room;  // tiles; set by the launcher
};

struct MergedFpropParams : FpropParams {
  MergedGroups merged;
};

// NHWC [pixels, C] to [pixels, layout.channels], zeros where the layout pads.
struct PadChannelsParams {
  const void* from;
  void* to;
  int32_t element_bytes;
  int64_t pixels;
  int32_t channels;
  FusedLayout layout;
};

cudaError_t launch_pad_channels(const PadChannelsParams& params, cudaStream_t stream);
cudaError_t launch_pack_weight(const PackWeightParams& params, cudaStream_t stream);
// `tile` is an index of kFpropTiles, of that architecture. `merged`: groups that are one of the
// shape.
cudaError_t launch_fprop_sm90(const FpropParams& params, FusedMath math, int tile, int merged,
                              int multiprocessors, cudaStream_t stream);
cudaError_t launch_fprop_sm80(const FpropParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream);

}  // namespace dcn
