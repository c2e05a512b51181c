#include "fused_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "fprop_tiles.h"

namespace dcn {
namespace {

constexpr int kMostParts = 4;

struct Candidate {
  int tile, split_k;
};

bool fits(const FpropTile& tile, FusedMath math, const FusedLayout& layout, int split_k) {
  return tile_exists(tile, math) && tile.narrow == layout.narrow && split_k <= layout.steps &&
         shared_bytes(tile, math, tiles_of(layout.steps, split_k)) <= kFusedSharedBytes;
}

double estimate(const ConvShape& shape, const FusedLayout& layout, const FpropTile& tile,
                int multiprocessors, int split_k) {
  const int64_t channel_tiles =
      shape.G * tiles_of(shape.output_channels_per_group(), tile.channels);
  const int64_t ctas = tiles_of(shape.output_pixels(), tile.pixels) * channel_tiles * split_k;
  if (split_k > 1 && ctas > multiprocessors) return std::numeric_limits<double>::infinity();
  const int64_t rounds = tiles_of(ctas, multiprocessors);
  const double step = tile.pixels * (64. + tile.channels);
  return rounds * (tiles_of(layout.steps, split_k) * step + 4 * step) + split_k * 1e4;
}

}  // namespace

const char* name_of(FusedMath math) {
  switch (math) {
    case FusedMath::kF16:
      return "f16";
    case FusedMath::kBF16:
      return "bf16";
    case FusedMath::kTf32:
      return "tf32";
    case FusedMath::k3xTf32:
      return "3xtf32";
  }
  throw std::logic_error("arithmetic without a name");
}

FusedPlan plan_fused_forward(const ConvShape& shape, FusedMath math, int multiprocessors, int tile,
                             int split_k) {
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  FusedPlan best;
  double best_time = std::numeric_limits<double>::infinity();
  for (int t = 0; t < kFpropTileCount; ++t) {
    if (tile >= 0 && t != tile) continue;
    for (int parts = 1; parts <= kMostParts; ++parts) {
      if (split_k > 0 && parts != split_k) continue;
      if (!fits(kFpropTiles[t], math, layout, parts)) continue;
      const double time = estimate(shape, layout, kFpropTiles[t], multiprocessors, parts);
      if (time >= best_time) continue;
      best_time = time;
      best.tile = t;
      best.split_k = parts;
    }
  }
  if (best.tile < 0) throw std::invalid_argument("fused has no such tile for this shape");
  const FpropTile& chosen = kFpropTiles[best.tile];
  const int64_t pixel_tiles = tiles_of(shape.output_pixels(), chosen.pixels);
  const int64_t channel_tiles =
      shape.G * tiles_of(shape.output_channels_per_group(), chosen.channels);
  best.math = math;
  best.packed_bytes = channel_tiles * layout.steps * weight_tile_bytes(chosen, math);
  if (best.split_k > 1) {
    best.arrivals = pixel_tiles * channel_tiles;
    best.partial_bytes = best.arrivals * (best.split_k - 1) * chosen.pixels * chosen.channels * 4;
  }
  return best;
}

std::string why_not_fused(const ConvShape& shape, FusedMath math) {
  if (shape.input_pixels() == 0 || shape.output_pixels() == 0) return "fused has no use for an empty batch or image";
  return "";
}

}  // namespace dcn
