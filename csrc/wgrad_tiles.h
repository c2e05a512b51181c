// The compiled tiles of the weight gradient, and what they take of shared memory.
//
// A unit is one tap of one slice (128 bytes of the channels of a convolution group): the rows of
// the weight gradient that one gathered tile of values serves. A tile is some units x output
// channels; a step is some output pixels.
#pragma once

#include "fprop_tiles.h"

namespace dcn {

struct WgradTile {
  int units;
  int channels;    // output channels
  int unit_warps;  // that share the pixels of a unit: a warpgroup in 16 bits, two warps in f32
  // Nanoseconds of a step of a CTA with 16-bit, tf32 and 3xTF32 arithmetic, on an H200 whose
  // multiprocessors are all at it. 0: not compiled.
  int step_ns[3];
  int owgrad_step_ns;  // with the offset and mask gradients, in 16 bits
};

constexpr WgradTile kWgradTiles[] = {
    // Registers for a third warpgroup; with 128 channels they would spill.
    {3, 64, 4, {1530, 0, 0}, 2650},
    {2, 128, 4, {1600, 0, 0}, 1950},
    // A gather serves 256 channels.
    {2, 256, 4, {1670, 0, 0}, 3150},
    // Tiles of 6 leave no rest of a 3x3 kernel's units of an even number of slices.
    {6, 64, 2, {0, 1300, 1950}, 0},
    {4, 128, 2, {0, 1150, 1750}, 0},
    // Three products have no registers for more.
    {4, 256, 2, {0, 2150, 0}, 0},
};
constexpr int kWgradTileCount = sizeof(kWgradTiles) / sizeof(kWgradTiles[0]);

constexpr int kStepPixels = 64;  // output pixels of a step in 16 bits
// In f32 a row of 128 bytes.
constexpr int step_pixels(const WgradTile& tile) { return tile.unit_warps < 4 ? 32 : kStepPixels; }
constexpr int kGradStages = 3;  // tiles of the gradient on their way or in use

constexpr int step_ns(const WgradTile& tile, FusedMath math) {
  return tile.step_ns[math == FusedMath::k3xTf32 ? 2 : math == FusedMath::kTf32 ? 1 : 0];
}
constexpr int owgrad_step_ns(const WgradTile& tile, FusedMath) { return tile.owgrad_step_ns; }

// Slices of a tap whose samples a warp plans at once, in f32: units that follow one another.
inline int slices_at_once(const FusedLayout& layout, const WgradTile& tile) {
  const bool is_f32 = tile.unit_warps == 2;
  return is_f32 && layout.block_channels % 64 == 0 ? 2 : 1;
}

// The steps of a weight gradient. Units are the steps of the forward pass (fused_layout.h).
struct WgradWork {
  int64_t groups, unit_tiles, channel_tiles;  // tiles of a group
  int64_t steps;                              // of a tile
  constexpr int64_t tiles() const { return groups * unit_tiles * channel_tiles; }
  constexpr int64_t all_steps() const { return tiles() * steps; }
};
inline WgradWork wgrad_work(const ConvShape& shape, const FusedLayout& layout,
                            const WgradTile& tile) {
  return {shape.G, tiles_of(layout.steps, tile.units),
          tiles_of(shape.output_channels_per_group(), tile.channels),
          tiles_of(shape.output_pixels(), step_pixels(tile))};
}
// Sums that a CTA leaves of a tile.
constexpr int64_t segment_bytes(const WgradTile& tile, int element_bytes) {
  return int64_t{tile.units} * (kSliceBytes / element_bytes) * tile.channels * 4;
}

}  // namespace dcn
