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
  int slices;      // of output channels in a panel
  int stages;      // weight tiles of a step, on their way
  int ahead;       // of the 8 pairs of rows that a warp gathers
  bool ragged;     // serves channels that are no multiple of a step's
  FusedMath last;  // serves up to
  // Nanoseconds of a step with 16-bit and with tf32 arithmetic, on an H200 whose multiprocessors
  // are all at it. One tile serves 3xTF32.
  int step_ns[2];

  constexpr bool serves(FusedMath math) const { return math <= last; }
};
constexpr OgradTile kOgradTiles[] = {
    {4, 1, 4, 4, false, FusedMath::kBF16, {1900, 0}},
    {3, 1, 4, 8, true, FusedMath::kTf32, {1350, 1840}},
    {3, 2, 3, 4, true, FusedMath::kBF16, {1800, 0}},
    {2, 2, 3, 4, true, FusedMath::k3xTf32, {1700, 1500}},
    {2, 4, 3, 8, true, FusedMath::kTf32, {1640, 1860}},
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
