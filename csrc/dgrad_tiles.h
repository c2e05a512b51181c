// The compiled tiles of the fused input gradient.
#pragma once

#include "fprop_tiles.h"

namespace dcn {

// A warp has a block of kBlockSide x kBlockSide pixels of the image.
constexpr int kBlockSide = 4;
static_assert(kBlockSide * kBlockSide == kWarpPixels);
inline int64_t blocks_of(int64_t length) { return tiles_of(length, kBlockSide); }
// Rows of all tiles: the pixels of all blocks, which may reach beyond the image. `shape`: of the
// transposed convolution.
inline int64_t dgrad_rows(const ConvShape& shape) {
  return shape.N * blocks_of(shape.P) * blocks_of(shape.Q) * kWarpPixels;
}

// Samples of a block, 16 at a time. Where they are spread evenly, a tap of a kernel at stride 1 has
// 25, and nine taps take 18 batches, hardly ever more than 24.
constexpr int kBatch = 16;
constexpr int kPlanBatches = 26;
constexpr int block_plan_bytes(FusedMath math) {
  const bool wide = math == FusedMath::kTf32 || math == FusedMath::k3xTf32;
  return kPlanBatches * kBatch * (wide ? 16 : 20) + 2 * kPlanTaps * 2 * kBlockSide * 4 + 64;
}

constexpr FpropTile kDgradTiles[] = {
    {64, 64, false, 4, 2, true, {620, 720, 1260}},
    {256, 64, false, 4, 1, false, {1440, 1580, 0}},
    {128, 64, false, 4, 2, true, {810, 960, 1550}},
    {128, 128, false, 4, 2, true, {930, 1060, 1870}},
    {128, 256, false, 3, 2, true, {1290, 1540, 0}},
};
constexpr int kDgradTileCount = sizeof(kDgradTiles) / sizeof(kDgradTiles[0]);

// Tiles of kIrregularPixels rows that the second kernel computes, since the first one has no place
// for their samples or no number for a sum: how many, a flag for each tile, and which they are.
constexpr int kIrregularPixels = 64;
constexpr int64_t irregular_bytes(int64_t rows) {
  return (2 + 2 * tiles_of(rows, kIrregularPixels)) * int64_t{sizeof(int32_t)};
}

constexpr int64_t dgrad_shared_bytes(const FpropTile& tile, FusedMath math) {
  return kTileAlignment + tile.stages * weight_tile_bytes(tile, math) + kBarrierBytes +
         tile.channels * 4 + tile.pixels / kWarpPixels * block_plan_bytes(math);
}
// Its CTAs are given sums where their plans were, behind which outputs are ordered. Where the
// fragments leave room, two of them share a multiprocessor.
constexpr int kIrregularStages = 3;
constexpr int64_t irregular_shared_bytes(FusedMath math) {
  constexpr FpropTile kTile = kDgradTiles[0];
  constexpr int kWarps = kTile.pixels / kWarpPixels;
  const int64_t plans = int64_t{kWarps} * block_plan_bytes(math);
  const int64_t sums = exchange_bytes(kTile, kMostParts) + kWarps * kExchangeBytes;
  const int64_t idle = (kTile.stages - kIrregularStages) * int64_t{weight_tile_bytes(kTile, math)};
  return dgrad_shared_bytes(kTile, math) - idle + (sums > plans ? sums - plans : 0);
}
constexpr int irregular_resident(FusedMath math) { return weight_parts(math) == 1 ? 2 : 1; }
constexpr bool irregular_fits(FusedMath math) {
  constexpr int64_t kOfCuda = 1024;  // of each CTA
  return irregular_resident(math) * (irregular_shared_bytes(math) + kOfCuda) <=
         kSharedBytesBesideL1;
}
static_assert(irregular_fits(FusedMath::kF16) && irregular_fits(FusedMath::kBF16) &&
              irregular_fits(FusedMath::kTf32) && irregular_fits(FusedMath::k3xTf32));
constexpr bool dgrad_tile_exists(const FpropTile& tile, FusedMath math) {
  return step_ns(tile, math) > 0 && dgrad_shared_bytes(tile, math) <= kFusedSharedBytes;
}

}  // namespace dcn
