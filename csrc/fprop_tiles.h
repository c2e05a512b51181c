// The compiled tiles of the fused forward pass, and what they take of shared memory.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "fused_layout.h"
#include "fused_plan.h"

namespace dcn {

constexpr int64_t tiles_of(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

// Tiles of the weight that a step multiplies: leading, and for 3xTF32 trailing parts.
constexpr int weight_parts(FusedMath math) { return math == FusedMath::k3xTf32 ? 2 : 1; }

// What a CTA of compute capability 9.0 can have of shared memory, and one of any other from 8.0 on.
constexpr int kFusedSharedBytes = 227 * 1024;
constexpr int kFusedSharedBytesSm80 = 99 * 1024;
// What a multiprocessor has where shared memory leaves the L1 its part (kernel_setup.h).
constexpr int64_t kSharedBytesBesideL1 = 164 * 1024;

// A compiled tile: pixels x output channels. fprop_sm90 has a warp for 16 pixels, and runs on
// compute capability 9.x alone; fprop_sm80 has a warp for 16 or 32, and runs on 8.0 and newer.
struct FpropTile {
  int pixels;
  int channels;
  bool narrow;         // for offset groups narrower than a slice
  int stages;          // weight tiles on their way; 0: all those of a CTA stay in shared memory
  int rows_in_flight;  // of the two that a lane gathers: 8 or 16 loads
  bool overlap;        // values are mixed while the step before is multiplied
  // Nanoseconds of a step with 16-bit, tf32 and 3xTF32 arithmetic, on an H200 whose
  // multiprocessors are all at it (3x3 kernels, the layers of the benchmark). 0: not compiled.
  // Those of a tile for 8.0 are estimates, for an A100 and not measured: gathers and instructions
  // take what they take on the H200 by the clocks (1.98 to 1.41 GHz), and weights pass through the
  // L1 once for each warp, 128 bytes a clock. A step lasts while its multiprocessor serves as many
  // steps as it has CTAs.
  int step_ns[3];
  int architecture = 90;
  int warp_pixels = 16;
  int ctas = 1;   // on a multiprocessor, as registers allow it
  int turns = 1;  // 2: two sets of warps share the tile's pixels, and take the steps in turn
};

constexpr FpropTile kFpropTiles[] = {
    // Small maps: as many CTAs as there can be.
    {64, 64, false, 0, 2, true, {630, 540, 950}},
    // Up to 64 output channels. 128 registers, so half the loads in flight, but four warpgroups.
    // Resident weights save the waiting, and cost L1: 3 % gained with 9 steps, lost from 18 on.
    {256, 64, false, 0, 1, false, {1310, 1550, 0}},
    {256, 64, false, 4, 1, false, {1430, 1300, 0}},
    // 3xTF32 has no registers for more.
    {128, 64, false, 4, 2, true, {800, 790, 1290}},
    {128, 128, false, 4, 2, true, {844, 900, 1530}},
    // A gather serves 256 channels; 3 stages keep the L1 at 92 KB.
    {128, 256, false, 3, 2, true, {1110, 1195, 0}},
    // With offsets of 1 pixel, all rows there. 16 warps have 128 registers each; 3xTF32 needs 168.
    {256, 64, true, 6, 1, false, {2110, 1860, 0}},
    {192, 64, true, 4, 1, false, {0, 0, 2290}},
    {128, 128, true, 4, 1, false, {1470, 1380, 0}},
    // For 8.0. Stages hold half a weight tile.
    {128, 128, false, 3, 1, false, {2720, 2820, 0}, 80, 32, 2},
    {128, 64, false, 4, 1, false, {2360, 2460, 4330}, 80, 32, 2},
    {64, 64, false, 4, 1, false, {2040, 2120, 2520}, 80, 16, 3},
    {64, 64, true, 4, 1, false, {2780, 2040, 3380}, 80, 16, 2},
    {128, 128, true, 3, 1, false, {3700, 2850, 0}, 80, 16, 1},
    // As many multiplications in flight as 128 x 256, but twice as many tiles: where those leave
    // multiprocessors idle. Each set of warps has its own 2 stages.
    {64, 256, false, 2, 2, true, {640, 690, 0}, 90, 16, 1, 2},
};
constexpr int kFpropTileCount = sizeof(kFpropTiles) / sizeof(kFpropTiles[0]);

// CTAs that may share a tile, as a cluster does (split_tile.cuh).
constexpr int kMostParts = 6;
constexpr int kChannelsPerStore = 32;
// Sums that the others give a CTA: those of its share of the stores.
constexpr int64_t exchange_bytes(const FpropTile& tile, int parts) {
  const int stores = tile.channels / kChannelsPerStore / tile.turns;  // of a lane
  const int store_bytes = kChannelsPerStore * tile.pixels * tile.turns * 4;
  return (stores + parts - 1) / parts * (parts - 1) * int64_t{store_bytes};
}
// What warps that take turns need to add their sums up.
constexpr int64_t kTurnsNs = 700;
// What a split costs, in nanoseconds on an H200, estimated: waiting for one another, and the
// others' sums at 25 bytes a nanosecond.
constexpr int64_t exchange_ns(const FpropTile& tile, int parts) {
  const int64_t of_turns = tile.turns > 1 ? kTurnsNs : 0;
  if (parts == 1) return of_turns;
  const int64_t stores = tiles_of(tile.channels / kChannelsPerStore, parts);
  return of_turns + 900 + 300 * parts +
         stores * (parts - 1) * kChannelsPerStore * tile.pixels * 4 / 25;
}
// Clusters that run at the same time, a CTA on each multiprocessor: those of an H200, whose 132
// multiprocessors lie in groups that a cluster does not leave, or in proportion.
constexpr int64_t clusters_at_once(int multiprocessors, int parts) {
  constexpr int kOfAnH200[kMostParts] = {132, 66, 39, 30, 22, 17};
  const int64_t clusters = int64_t{kOfAnH200[parts - 1]} * multiprocessors / 132;
  return clusters > 1 ? clusters : 1;
}

constexpr int kWarpPixels = 16;
// A warp's plan: weights and corners of kPlanTaps samples of each of its pixels, and which are
// outside.
constexpr int kPlanBytes = kPlanTaps * kWarpPixels * 32 + 64;
// A tile of fprop_sm90 for narrow offset groups has no plan, but lets each warp exchange 32
// channels in its epilogue.
constexpr int kExchangeBytes = 32 * (kWarpPixels + 1) * 4;
constexpr int warp_bytes(const FpropTile& tile) {
  return tile.narrow && tile.architecture == 90 ? kExchangeBytes : kPlanBytes;
}
// It keeps a window of the image instead (window_gather.cuh): with what samples of a 3x3 kernel
// touch that lie up to so many pixels from where they would without offsets. 5 and 8 pixels were
// measured at offsets of 1 pixel, 192 pixels a tile: 105 and 120 us, and 112 us with 3.
constexpr int kWindowMargin = 5;
constexpr int kWindowHeader = 64;
constexpr int window_pixels(const FpropTile& tile) {
  if (!tile.narrow || tile.architecture == 80) return 0;
  constexpr int kAround = 2 * kWindowMargin + 3;
  return (tile.pixels / kWarpPixels + kAround) * (kWarpPixels + kAround);
}

// Such a tile is a cell of the output of one image: up to tile.pixels / 16 rows of 16 pixels. An
// image has strips of cells of two heights, chosen so that multiprocessors end at the same time:
// they walk the tall ones first.
struct WindowCells {
  int32_t columns = 0, tall_strips = 0, strips = 0;  // of an image; strips: of both heights
  int32_t tall_rows = 0, rows = 0;
};
inline int64_t tall_tiles(const ConvShape& shape, const WindowCells& cells) {
  return int64_t{shape.N} * cells.columns * cells.tall_strips;
}
inline int64_t tiles_in(const ConvShape& shape, const WindowCells& cells) {
  return int64_t{shape.N} * cells.columns * cells.strips;
}
// What a tile takes beside its rows, in rows.
constexpr int kRowsOfATurn = 6;
// Rows of the tiles that one multiprocessor serves of `at_once`, one after the other.
inline int64_t rows_in_turn(const ConvShape& shape, const WindowCells& cells, int64_t at_once) {
  const int64_t tall = tiles_of(tall_tiles(shape, cells), at_once);
  const int64_t turns = tiles_of(tiles_in(shape, cells), at_once);
  return tall * cells.tall_rows + (turns - tall) * cells.rows + turns * kRowsOfATurn;
}
inline WindowCells window_cells(const ConvShape& shape, const FpropTile& tile, int64_t at_once) {
  const int32_t most = tile.pixels / kWarpPixels;
  const auto columns = static_cast<int32_t>(tiles_of(shape.Q, kWarpPixels));
  const int64_t strip = int64_t{shape.N} * columns;
  const int64_t strips = tiles_of(shape.P, most), turns = tiles_of(strip * strips, at_once);
  WindowCells best{columns, static_cast<int32_t>(strips), static_cast<int32_t>(strips), most, most};
  int64_t best_rows = turns * (most + kRowsOfATurn);
  // Low cells in the last turn or two; or no strip is taller than need be.
  for (int64_t tall_turns = turns > 2 ? turns - 2 : 0; tall_turns < turns; ++tall_turns) {
    const auto tall = static_cast<int32_t>(tall_turns * at_once / strip);
    const int64_t left = shape.P - tall * most;
    const auto even = static_cast<int32_t>(tiles_of(left, tiles_of(left, most)));
    for (const int32_t rows : {even, 12, 8, 4}) {
      if (rows >= most) continue;
      const int64_t low = tiles_of(left, rows);
      const WindowCells cells{columns, tall, tall + static_cast<int32_t>(low), most, rows};
      const int64_t in_turn = rows_in_turn(shape, cells, at_once);
      if (in_turn >= best_rows) continue;
      best = cells;
      best_rows = in_turn;
    }
  }
  return best;
}
constexpr int kTileAlignment = 1024;  // of swizzled tiles
constexpr int kBarrierBytes = 256;

// Output channels of the tiles in which the weight is packed for the kernels of 9.0. Those of a
// step lie side by side, so that one packed weight serves whichever wider tile is chosen.
constexpr int kPieceChannels = 64;
constexpr int packed_channels(const FpropTile& tile) {
  return tile.architecture == 80 ? tile.channels : kPieceChannels;
}
inline int64_t packed_tiles(const ConvShape& shape, const FusedLayout& layout, int tile_channels) {
  return shape.G * tiles_of(shape.output_channels_per_group(), tile_channels) * layout.steps;
}
inline int64_t packed_bytes(const ConvShape& shape, const FusedLayout& layout, int parts,
                            int tile_channels) {
  return packed_tiles(shape, layout, tile_channels) * parts * tile_channels * kSliceBytes;
}
// Parts in which the forward pass of 9.0 packs the weight. One, which is split on the chip
// (split_weights.cuh), where two would take more than this. Steps are 2 to 9 % slower by that.
constexpr int64_t kMostPackedBytes = int64_t{16} << 20;
// Merged groups, whose weights are small, have no such way.
inline int packed_parts(const ConvShape& shape, const FusedLayout& layout, FusedMath math,
                        int merged_groups) {
  const int parts = weight_parts(math);
  const bool large = packed_bytes(shape, layout, parts, kPieceChannels) > kMostPackedBytes;
  return large && merged_groups == 1 ? 1 : parts;
}

constexpr int weight_tile_bytes(const FpropTile& tile, FusedMath math) {
  return weight_parts(math) * tile.channels * kSliceBytes;
}
// Where warps take turns: from the weights of a set of them, barriers included, to those of the
// next.
constexpr int64_t weights_stride(const FpropTile& tile, FusedMath math) {
  return tile.stages * weight_tile_bytes(tile, math) + kTileAlignment;
}
// Weight tiles that a CTA has room for: its ring, or all those of the longest part of the steps.
// The sums that it is given go there too, and may need more.
constexpr int64_t weight_room(const FpropTile& tile, FusedMath math, int64_t steps, int parts) {
  if (tile.stages > 0) return tile.stages;
  const int64_t exchange = tiles_of(exchange_bytes(tile, parts), weight_tile_bytes(tile, math));
  return steps > exchange ? steps : exchange;
}
// Whether there is room in the ring for the sums of a split, and each set of warps has a step.
constexpr bool split_fits(const FpropTile& tile, FusedMath math, int64_t steps, int parts) {
  const int64_t least_steps = steps / parts;
  return least_steps >= tile.turns &&
         (tile.stages == 0 ||
          exchange_bytes(tile, parts) <= tile.stages * weight_tile_bytes(tile, math));
}
// Whether the steps are one run (fused_gather.cuh) of taps that two sets of warps can share.
inline bool turns_fit(const FpropTile& tile, const FusedLayout& layout, int taps) {
  return tile.turns == 1 || (layout.blocks == 1 && layout.chunk_taps == taps && taps >= tile.turns);
}
// `steps`: of the longest of the parts.
constexpr int64_t shared_bytes(const FpropTile& tile, FusedMath math, int64_t steps,
                               int parts = 1) {
  const int plans = tile.pixels / kWarpPixels;
  if (tile.architecture == 80) {
    return tile.stages * weight_tile_bytes(tile, math) / 2 + kBarrierBytes + tile.channels * 4 +
           plans * kPlanBytes;
  }
  return kTileAlignment + (tile.turns - 1) * weights_stride(tile, math) +
         weight_room(tile, math, steps, parts) * weight_tile_bytes(tile, math) + kBarrierBytes +
         tile.channels * 4 + plans * warp_bytes(tile) +  // the bias lies between
         (tile.narrow ? kWindowHeader + window_pixels(tile) * kSliceBytes : 0);
}
constexpr int step_ns(const FpropTile& tile, FusedMath math) {
  return tile.step_ns[math == FusedMath::k3xTf32 ? 2 : math == FusedMath::kTf32 ? 1 : 0];
}
// CTAs on a multiprocessor; fragments of 3xTF32 leave registers for two.
constexpr int ctas_of(const FpropTile& tile, FusedMath math) {
  return math == FusedMath::k3xTf32 && tile.ctas > 2 ? 2 : tile.ctas;
}
constexpr bool tile_exists(const FpropTile& tile, FusedMath math) {
  const int most = tile.architecture == 80 ? kFusedSharedBytesSm80 : kFusedSharedBytes;
  return step_ns(tile, math) > 0 && shared_bytes(tile, math, 1) <= most;
}
// Whether the tile is compiled for merged groups too (fprop_merged_sm90.cuh), which have 64 output
// channels most of the time.
constexpr bool tile_merges(const FpropTile& tile, FusedMath math) {
  return tile_exists(tile, math) && tile.architecture == 90 && tile.channels == kPieceChannels &&
         tile.turns == 1;
}

}  // namespace dcn
