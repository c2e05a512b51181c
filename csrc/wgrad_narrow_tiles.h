// The weight gradient of narrow offset groups (kernels/wgrad_narrow.cuh): its units of work, and
// what they take of memory.
#pragma once

#include "scatter_tiles.h"

namespace dcn {

constexpr int kNarrowPixels = 32;     // of a step of a warp: a sample a lane
constexpr int kNarrowTaps = 3;        // of a warp
constexpr int kNarrowTapWarps = 3;    // of a CTA, that have taps of their own
constexpr int kNarrowPixelWarps = 1;  // and pixels
constexpr int kNarrowChunkTaps = kNarrowTaps * kNarrowTapWarps;  // of a CTA
constexpr int kNarrowThreads = 32 * kNarrowTapWarps * kNarrowPixelWarps;
constexpr int kNarrowChannels = 64;  // output channels of a CTA, its panel

// CTAs that registers leave room for on a multiprocessor.
constexpr int narrow_resident(FusedMath math) { return element_bytes(math) == 2 ? 5 : 4; }

// A unit: a block of channels of an offset group, by a chunk of taps, by a panel.
struct WgradNarrowWork {
  ScatterBlocks blocks;
  int32_t chunks, panels;
  int32_t rows;   // of the transposed gradient, of a convolution group: whole panels
  int32_t steps;  // of all pixels

  DCN_HOST_DEVICE int64_t units(const ConvShape& shape) const {
    return int64_t{shape.D} * blocks.count * chunks * panels;
  }
};
inline WgradNarrowWork wgrad_narrow_work(const ConvShape& shape, int element_bytes) {
  const FusedLayout layout = fused_layout(shape, element_bytes);
  const FusedLayout grad_layout = fused_layout(transposed(shape), element_bytes);
  WgradNarrowWork work;
  work.blocks = scatter_blocks(layout, grad_layout, element_bytes);
  work.chunks = static_cast<int32_t>(tiles_of(shape.taps(), kNarrowChunkTaps));
  work.panels = static_cast<int32_t>(tiles_of(shape.output_channels_per_group(), kNarrowChannels));
  work.rows = work.panels * kNarrowChannels;
  work.steps = static_cast<int32_t>(tiles_of(shape.output_pixels(), kNarrowPixels));
  return work;
}

inline int64_t transposed_grad_bytes(const ConvShape& shape, int element_bytes) {
  const WgradNarrowWork work = wgrad_narrow_work(shape, element_bytes);
  return int64_t{work.steps} * shape.G * work.rows * kNarrowPixels * element_bytes;
}
// Sums that the warps of `slices` CTAs a unit leave.
constexpr int64_t kNarrowUnitSums = kNarrowChunkTaps * kNarrowChannels * kBlockChannels;
inline int64_t narrow_partial_bytes(const ConvShape& shape, int element_bytes, int32_t slices) {
  return wgrad_narrow_work(shape, element_bytes).units(shape) * slices * kNarrowPixelWarps *
         kNarrowUnitSums * int64_t{sizeof(float)};
}

}  // namespace dcn
