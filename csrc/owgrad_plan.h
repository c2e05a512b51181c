// The offset, mask and weight gradients together (owgrad): for which calls, and what they take
// beside the weight gradient's own memory.
#pragma once

#include <cstdint>
#include <string>

#include "wgrad_plan.h"

namespace dcn {

// Slices of channels whose units share the samples of a tap, a warpgroup each.
inline int owgrad_slices(const FusedLayout& layout, const WgradTile& tile) {
  return tile.units == 2 && layout.slices % 2 == 0 ? 2 : 1;
}
// CTAs that have a part of a sample's gradients.
inline int64_t owgrad_parts(const ConvShape& shape, const FusedLayout& layout,
                            const WgradTile& tile) {
  return layout.offset_channels / (kPieceChannels * owgrad_slices(layout, tile)) *
         tiles_of(shape.output_channels_per_group(), tile.channels);
}
// f32 values of one part: offset's gradient, then mask's.
inline int64_t owgrad_part_values(const ConvShape& shape) {
  return 3 * int64_t{shape.D} * shape.taps() * shape.output_pixels();
}
inline int64_t owgrad_part_bytes(const ConvShape& shape, const FusedLayout& layout,
                                 const WgradTile& tile) {
  const int64_t parts = owgrad_parts(shape, layout, tile);
  return parts > 1 ? parts * owgrad_part_values(shape) * 4 : 0;
}

// Empty, or why these gradients are not for owgrad.
std::string why_not_owgrad(const ConvShape& shape, FusedMath math);

}  // namespace dcn
