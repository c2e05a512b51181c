// The compiled tiles of the fused input gradient.
#pragma once

#include "fprop_tiles.h"

namespace dcn {

// Lists of a warp: entries are read four at a time. 3x3 kernels at stride 1 take 200 fours where
// samples are spread evenly.
constexpr int kListQuads = 224;
constexpr int kListPlanBytes =
    (2 * kListQuads + 1) * 16 + kPlanTaps * (kWarpPixels + 1) * 4 + kWarpPixels * 4 + 12;

constexpr FpropTile kDgradTiles[] = {
    {64, 64, false, 4, 2, true, {1500, 1500, 2500}},
    {256, 64, false, 4, 1, false, {3600, 3400, 0}},
    {128, 64, false, 4, 2, true, {2000, 1900, 3200}},
    {128, 128, false, 4, 2, true, {1600, 1700, 2800}},
    {128, 256, false, 3, 2, true, {2250, 2300, 0}},
};
constexpr int kDgradTileCount = sizeof(kDgradTiles) / sizeof(kDgradTiles[0]);

// Tiles of kIrregularPixels that the second kernel computes, since their lists are too long for the
// first one: how many, a flag for each tile, and which they are.
constexpr int kIrregularPixels = 64;
constexpr int64_t irregular_bytes(int64_t pixels) {
  return (1 + 2 * tiles_of(pixels, kIrregularPixels)) * int64_t{sizeof(int32_t)};
}

constexpr int64_t dgrad_shared_bytes(const FpropTile& tile, FusedMath math) {
  return kTileAlignment + tile.stages * weight_tile_bytes(tile, math) + kBarrierBytes +
         tile.channels * 4 + tile.pixels / kWarpPixels * kListPlanBytes;
}
constexpr bool dgrad_tile_exists(const FpropTile& tile, FusedMath math) {
  return step_ns(tile, math) > 0 && dgrad_shared_bytes(tile, math) <= kFusedSharedBytes;
}

}  // namespace dcn
