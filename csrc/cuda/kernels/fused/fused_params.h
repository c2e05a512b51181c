// What travels to the kernels of the fused algorithm, and their launchers; see params.h.
#pragma once

#include "../../../fast_divide.h"
#include "../../../fprop_tiles.h"
#include "../../../fused_layout.h"
#include "../params.h"

namespace dcn {

// The weight in the order of the steps: [G, steps, parts, tiles of K/G, tile rows, 128 bytes]
// for 9.0, two parts for 3xTF32 (leading and trailing); [G, tiles of K/G, steps, parts, ...] for
// mma.sync.
struct PackWeightParams {
  ConvShape shape;
  FusedLayout layout;
  FusedMath math;
  const void* weight;                                        // [K, C/G, R, S]
  int64_t stride_g, stride_k, stride_c, stride_r, stride_s;  // g: between groups
  int32_t tile_channels;
  bool for_mma_sync;       // the order of fprop_sm80, otherwise that of fprop_sm90
  bool beside_conversion;  // the kernel before converts the image, of which this one needs nothing
  void* packed;
  int32_t* counters;  // zeroed, or null
  int32_t counter_count;
  int32_t most_ctas;  // large ones, if it can, beside a kernel that fills the rest; 0: any
};

// How a row of a tile is found in the output; made by pixel_walk (fused_samples.cuh).
struct PixelWalk {
  uint32_t cell_height = 0, last_strip = 0;
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
  const void* bias;    // [K], or null
  void* output;        // [N, P, Q, K], or [N, K, P, Q] where nchw
  bool nchw;
  int32_t split_k;  // CTAs that share a tile, each with a part of the steps
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
// `tile` is an index of kFpropTiles, of that architecture.
cudaError_t launch_fprop_sm90(const FpropParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream);
cudaError_t launch_fprop_sm80(const FpropParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream);

}  // namespace dcn
