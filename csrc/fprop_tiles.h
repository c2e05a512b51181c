// The compiled tiles of the fused forward pass, and what they take of shared memory.
#pragma once

#include <cstdint>

#include "fused_layout.h"
#include "fused_plan.h"

namespace dcn {

constexpr int64_t tiles_of(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

// Tiles of the weight in a step: leading, and for 3xTF32 trailing parts.
constexpr int weight_parts(FusedMath math) { return math == FusedMath::k3xTf32 ? 2 : 1; }

// What a CTA of compute capability 9.0 can have of shared memory.
constexpr int kStaticSharedBytes = 64;  // WeightRequests and a ticket
constexpr int kFusedSharedBytes = 227 * 1024 - kStaticSharedBytes;

// A compiled tile of fprop_sm90: pixels x output channels, a warpgroup for 64 pixels.
struct FpropTile {
  int pixels;
  int channels;
  bool narrow;         // for offset groups narrower than a slice
  int stages;          // weight tiles on their way; 0: all those of a CTA stay in shared memory
  int rows_in_flight;  // of the two that a lane gathers: 8 or 16 loads
  bool overlap;        // values are mixed while the step before is multiplied
};

constexpr FpropTile kFpropTiles[] = {
    {64, 64, false, 0, 2, true},
    {256, 64, false, 0, 1, false},
    {256, 64, false, 4, 1, false},
    {128, 64, false, 4, 2, true},
    {128, 128, false, 4, 2, true},
    {128, 256, false, 3, 2, true},
    {128, 64, true, 4, 1, false},
    {128, 128, true, 4, 1, false},
    {128, 256, false, 3, 2, false},
};
constexpr int kFpropTileCount = sizeof(kFpropTiles) / sizeof(kFpropTiles[0]);

// CTAs that may share a tile, and where they meet.
constexpr int kMostParts = 4;
struct SplitTile {
  int32_t tickets, left;  // drawn; sums left in memory
  int32_t part_of_ticket[kMostParts - 1];
};

constexpr int kWarpPixels = 16;
// A warp's plan: weights and corners of kPlanTaps samples of each of its pixels, and which are
// outside.
constexpr int kPlanBytes = kPlanTaps * kWarpPixels * 32 + 64;
constexpr int kTileAlignment = 1024;  // of swizzled tiles
constexpr int kBarrierBytes = 256;

constexpr int weight_tile_bytes(const FpropTile& tile, FusedMath math) {
  return weight_parts(math) * tile.channels * kSliceBytes;
}
constexpr int64_t shared_bytes(const FpropTile& tile, FusedMath math, int64_t steps) {
  const int64_t weight_tiles = tile.stages == 0 ? steps : tile.stages;
  const int plans = tile.pixels / kWarpPixels;
  return kTileAlignment + weight_tiles * weight_tile_bytes(tile, math) + kBarrierBytes +
         tile.channels * 4 + plans * kPlanBytes;  // the bias lies between
}
// A tile exists for a kind of arithmetic where its stages fit, and for 3xTF32 where registers hold
// twice the fragments and the sums.
constexpr bool tile_exists(const FpropTile& tile, FusedMath math) {
  const bool registers = math != FusedMath::k3xTf32 ||
                         (tile.pixels <= 128 && (!tile.narrow || tile.channels <= 64));
  return registers && shared_bytes(tile, math, 1) <= kFusedSharedBytes;
}

}  // namespace dcn
