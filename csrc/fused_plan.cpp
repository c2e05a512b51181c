#include "fused_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "fprop_tiles.h"

namespace dcn {
namespace {

// Positions are floored by an addition that holds whole numbers up to here.
constexpr int32_t kMostCoordinate = 1 << 22;
constexpr int64_t kMostGridRows = 1 << 16;

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
    const int64_t tiles = pixel_tiles * channel_tiles;
    best.counter_bytes = tiles * sizeof(SplitTile);
    best.partial_bytes = tiles * (best.split_k - 1) * chosen.pixels * chosen.channels * 4;
  }
  return best;
}

std::string why_not_fused(const ConvShape& shape, FusedMath math) {
  constexpr int64_t k32Bits = int64_t{1} << 32;
  const auto says = [](const std::string& what, int64_t limit, int64_t value) {
    return "fused needs " + what + " below " + std::to_string(limit) + ", but the call has " +
           std::to_string(value);
  };
  if (shape.input_pixels() == 0 || shape.output_pixels() == 0) {
    return "fused has nothing to do for an empty batch or image";
  }
  if (shape.output_pixels() >= k32Bits / 2) {
    return says("a number of output pixels", k32Bits / 2, shape.output_pixels());
  }
  if (std::max(shape.H, shape.W) >= kMostCoordinate) {
    return says("image sides", kMostCoordinate, std::max(shape.H, shape.W));
  }
  // A warp addresses the images that its pixels lie in with 32 bits.
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  const int64_t image = int64_t{shape.H} * shape.W * layout.channels * element_bytes(math);
  const int64_t met = tiles_of(kWarpPixels - 1, shape.output_pixels_per_image()) + 1;
  const int64_t images = std::min<int64_t>(met, shape.N);
  if (image * images >= k32Bits) {
    return says("the bytes of the images that 16 output pixels meet", k32Bits, image * images);
  }
  const int64_t channel_tiles = shape.G * tiles_of(shape.output_channels_per_group(), 64);
  if (channel_tiles >= kMostGridRows) {
    return says("a number of tiles of output channels", kMostGridRows, channel_tiles);
  }
  return "";
}

}  // namespace dcn
