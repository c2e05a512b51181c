// The compiled tiles of the offset and mask gradients, and which of them a call takes.
#pragma once

#include <cstdint>
#include <string>

#include "fprop_tiles.h"
#include "fused_layout.h"
#include "fused_plan.h"

namespace dcn {

// Input channels of a step.
constexpr int kOgradChannels = 64;

struct OgradTile {
  int warpgroups;  // of 64 output pixels
  int slices;      // of output channels in a stage of the ring
  int parts;       // stages of a panel
  int stages;      // of weight tiles, on their way
  int ahead;       // of the 8 pairs of rows that a warp gathers
  bool ragged;     // serves channels that are no multiple of a step's
  // Nanoseconds of a step with 16-bit, tf32 and 3xTF32 arithmetic, on an H200 whose
  // multiprocessors are all at it. 0: not compiled.
  int step_ns[3];

  constexpr int panel_slices() const { return slices * parts; }
  constexpr int step_time(FusedMath math) const {
    return step_ns[math == FusedMath::k3xTf32 ? 2 : math == FusedMath::kTf32 ? 1 : 0];
  }
};
constexpr OgradTile kOgradTiles[] = {
    {4, 1, 1, 4, 4, false, {1900, 0, 0}},   {3, 1, 1, 4, 8, true, {1350, 1840, 0}},
    {3, 2, 1, 3, 4, true, {1800, 0, 2850}}, {2, 2, 1, 3, 4, true, {1700, 1500, 0}},
    {2, 4, 1, 3, 8, true, {1640, 1860, 0}}, {2, 4, 2, 3, 4, true, {0, 3200, 0}},
    {2, 2, 2, 3, 4, true, {0, 0, 3400}},
};
constexpr int kOgradTileCount = sizeof(kOgradTiles) / sizeof(kOgradTiles[0]);

struct OgradChoice {
  int tile = -1;        // of kOgradTiles
  int tap_parts = 1;    // CTAs that share the taps of a tile of pixels
  int64_t time_ns = 0;  // the estimate
};
OgradChoice plan_ograd(const ConvShape& shape, FusedMath math, int multiprocessors);

// Whether the last step of a convolution group has fewer channels than the others.
inline bool ograd_ragged(const ConvShape& shape) {
  return shape.channels_per_group() % kOgradChannels != 0;
}

// Empty, or why these gradients are not for ograd. It needs no workspace beside the image, grad and
// the packed weight that it is given.
std::string why_not_ograd(const ConvShape& shape, FusedMath math);

}  // namespace dcn
