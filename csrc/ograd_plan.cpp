#include "ograd_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace dcn {
namespace {

// What a tile of pixels takes beside its steps: samples, rows of grad, stores.
constexpr int64_t kTileNs = 3000;

// Nanoseconds. CTAs of the grid walk rounds of tiles.
int64_t estimate(const ConvShape& shape, FusedMath math, const OgradTile& tile, int parts,
                 int multiprocessors) {
  const int64_t slice = kSliceBytes / element_bytes(math);
  const int64_t panels =
      tiles_of(tiles_of(shape.output_channels_per_group(), slice), tile.panel_slices());
  const int64_t groups = std::max(shape.G / shape.D, 1);
  const int64_t channels = shape.channels_per_offset_group() / groups;
  const int64_t steps =
      tiles_of(shape.taps(), parts) * tiles_of(channels, kOgradChannels) * panels * groups;
  const int64_t columns = std::max<int64_t>(multiprocessors / (int64_t{shape.D} * parts), 1);
  const int64_t waves = std::max<int64_t>(int64_t{shape.D} * parts / multiprocessors, 1);
  const int64_t rounds = tiles_of(tiles_of(shape.output_pixels(), 64 * tile.warpgroups), columns);
  return rounds * waves * (steps * tile.step_time(math) + kTileNs);
}

}  // namespace

OgradChoice plan_ograd(const ConvShape& shape, FusedMath math, int multiprocessors) {
  OgradChoice best;
  int64_t best_time = std::numeric_limits<int64_t>::max();
  for (int t = 0; t < kOgradTileCount; ++t) {
    const OgradTile& tile = kOgradTiles[t];
    if (tile.step_time(math) == 0 || (ograd_ragged(shape) && !tile.ragged)) continue;
    // A part has kPlanTaps taps at most.
    const int least = static_cast<int>(tiles_of(shape.taps(), kPlanTaps));
    const int most = std::min(shape.taps(), least * kPlanTaps);
    for (int parts = least; parts <= most; ++parts) {
      const int64_t time = estimate(shape, math, tile, parts, multiprocessors);
      if (time >= best_time) continue;
      best = {t, parts, time};
      best_time = time;
    }
  }
  if (best.tile < 0) throw std::invalid_argument("ograd has no tile for this arithmetic");
  return best;
}

std::string why_not_ograd(const ConvShape& shape, FusedMath math) {
  const std::string fused = why_not_fused(shape, math);
  if (!fused.empty()) return fused;
  const int32_t per_group = shape.channels_per_group();
  const int32_t per_offset_group = shape.channels_per_offset_group();
  const bool whole_groups = per_offset_group % per_group == 0;
  const bool whole_steps =
      per_group % per_offset_group == 0 && per_offset_group % kOgradChannels == 0;
  if (!whole_groups && !whole_steps) {
    return "ograd needs offset groups of whole convolution groups, or of a multiple of " +
           std::to_string(kOgradChannels) + " channels within one, but the call has " +
           std::to_string(per_offset_group) + " channels in an offset group and " +
           std::to_string(per_group) + " in a convolution group";
  }
  constexpr int64_t kMostRows = 1 << 16;
  if (int64_t{shape.D} * shape.taps() >= kMostRows) {
    return "ograd needs a number of offset groups times taps below " + std::to_string(kMostRows) +
           ", but the call has " + std::to_string(int64_t{shape.D} * shape.taps());
  }
  constexpr int64_t k32Bits = int64_t{1} << 32;
  const FusedLayout layout = fused_layout(transposed(shape), element_bytes(math));
  const int64_t bytes =
      packed_bytes(transposed(shape), layout, weight_parts(math), kPieceChannels) / shape.G;
  if (bytes >= k32Bits) {
    return "ograd needs the bytes of a convolution group's weight below " +
           std::to_string(k32Bits) + ", but the call has " + std::to_string(bytes);
  }
  return "";
}

}  // namespace dcn
