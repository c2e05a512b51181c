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

// fprop_sm80 runs on 9.x too, slower than fprop_sm90.
bool runs_on(const FpropTile& tile, int compute_capability, bool forced) {
  const bool sm90 = compute_capability / 10 == 9;
  return tile.architecture == 90 ? sm90 : forced || !sm90;
}

// A warp addresses the images that its pixels lie in with 32 bits.
constexpr int64_t kAddressedBytes = int64_t{1} << 32;
int64_t bytes_of_a_warp(const ConvShape& shape, FusedMath math, const FusedLayout& layout,
                        int warp_pixels) {
  const int64_t image = int64_t{shape.H} * shape.W * layout.channels * element_bytes(math);
  const int64_t met = tiles_of(warp_pixels - 1, shape.output_pixels_per_image()) + 1;
  return image * std::min<int64_t>(met, shape.N);
}

struct Work {
  int64_t pixel_tiles, channel_tiles;  // channel tiles of all groups
};
Work work_of(const ConvShape& shape, const FpropTile& tile) {
  return {tiles_of(shape.output_pixels(), tile.pixels),
          shape.G * tiles_of(shape.output_channels_per_group(), tile.channels)};
}

bool fits(const FpropTile& tile, const ConvShape& shape, FusedMath math, const FusedLayout& layout,
          int split_k) {
  if (tile.architecture == 80 && split_k > 1) return false;
  if (bytes_of_a_warp(shape, math, layout, tile.warp_pixels) >= kAddressedBytes) return false;
  if (work_of(shape, tile).channel_tiles >= kMostGridRows) return false;
  return tile_exists(tile, math) && tile.narrow == layout.narrow &&
         split_fits(tile, math, layout.steps, split_k) && turns_fit(tile, layout, shape.taps()) &&
         shared_bytes(tile, math, tiles_of(layout.steps, split_k), split_k) <= kFusedSharedBytes;
}

// What a call takes beside its steps, in nanoseconds on an H200: a tile's plans and its stores.
constexpr int64_t kTileNs = 1800;

// Products of a tile for one that the convolution has. Measured at 128 and 256 channels: 32 groups
// of 8 (64 here) run 1.2 times slower than im2col_gemm, depthwise 2.4 times; one group half the
// time.
constexpr int64_t kMostPadding = 16;
// Merged groups: channels of the image for each product of a slice and 64 output channels. Such a
// product takes 9 to 10 us for 16384 pixels and 9 taps, im2col_gemm 0.8 us for each channel of
// groups of 8, and 3.3 us depthwise (H200, bf16).
constexpr int64_t kLeastChannels = 12;

FusedPlan candidate(const ConvShape& shape, const FusedLayout& layout, FusedMath math, int merged,
                    int tile, int split_k) {
  FusedPlan plan;
  plan.math = math;
  plan.tile = tile;
  plan.split_k = split_k;
  plan.merged = merged;
  const int parts = kFpropTiles[tile].architecture == 80
                        ? weight_parts(math)
                        : packed_parts(shape, layout, math, merged);
  plan.packed_bytes = packed_bytes(shape, layout, parts, packed_channels(kFpropTiles[tile]));
  return plan;
}

// CTAs without a split walk tiles; those of a cluster make room for the next one. Two of them share
// a multiprocessor if they are small, and shared memory leaves the L1 its part (kernel_setup.h).
constexpr int kSmallTile = 64;
int64_t tiles_at_once(const FpropTile& tile, FusedMath math, int parts, int64_t steps,
                      int multiprocessors) {
  if (parts == 1) return multiprocessors * ctas_of(tile, math);
  const bool two = tile.pixels == kSmallTile &&
                   2 * shared_bytes(tile, math, steps, parts) <= kSharedBytesBesideL1;
  return clusters_at_once(multiprocessors, parts) * (two ? 2 : 1);
}

// Nanoseconds.
int64_t estimate(const ConvShape& shape, const FusedLayout& layout, const FusedPlan& plan,
                 int multiprocessors) {
  const FpropTile& tile = kFpropTiles[plan.tile];
  const Work work = work_of(shape, tile);
  const int64_t steps = tiles_of(layout.steps, plan.split_k);
  const int64_t at_once = tiles_at_once(tile, plan.math, plan.split_k, steps, multiprocessors);
  if (tile.narrow && tile.architecture == 90) {
    const int64_t columns = std::max<int64_t>(at_once / work.channel_tiles, 1);
    const WindowCells cells = window_cells(shape, tile, columns);
    const int64_t walks = tiles_of(work.channel_tiles * columns, at_once);
    const int64_t turns = tiles_of(tiles_in(shape, cells), columns);
    return walks * (rows_in_turn(shape, cells, columns) * steps * step_ns(tile, plan.math) /
                        (tile.pixels / kWarpPixels + kRowsOfATurn) +
                    turns * exchange_ns(tile, plan.split_k));
  }
  const int64_t rounds = tiles_of(work.pixel_tiles * work.channel_tiles, at_once);
  return rounds * (steps * step_ns(tile, plan.math) + kTileNs + exchange_ns(tile, plan.split_k));
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

int64_t slice_products(const ConvShape& shape, FusedMath math) {
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  return shape.G * tiles_of(shape.output_channels_per_group(), kPieceChannels) * layout.blocks *
         layout.slices;
}

int merged_groups(const ConvShape& shape, FusedMath math, int compute_capability) {
  const int bytes = element_bytes(math);
  const int32_t most = std::min(shape.G, kSliceBytes / bytes / shape.channels_per_group());
  if (most < 2 || compute_capability / 10 != 9) return 1;
  int best = 1;
  int64_t alone = 0, least = 0;
  for (int32_t groups = 1; groups <= most; ++groups) {
    if (shape.G % groups != 0) continue;
    const ConvShape run = merged(shape, groups);
    const FusedLayout layout = fused_layout(run, bytes);
    const int64_t products = slice_products(run, math);
    // Narrow steps last one and a half times as long; to pad an image takes time too.
    const int64_t cost = products * (layout.narrow ? 3 : 2) * (layout.padded() ? 5 : 4);
    if (groups == 1) alone = products;
    if (groups > 1 && (products >= alone || cost >= least)) continue;
    best = groups;
    least = cost;
  }
  return best;
}

std::array<int64_t, 3> packed_sizes(const ConvShape& shape, FusedMath math) {
  const int groups = merged_groups(shape, math, /*compute_capability=*/90);
  const ConvShape run = merged(shape, groups);
  const FusedLayout layout = fused_layout(run, element_bytes(math));
  const int parts = packed_parts(run, layout, math, groups);
  // Values that are split later are other ones than tf32's: they go by pairs of rows.
  const int rows = parts < weight_parts(math) ? 2 : 1;
  return {packed_tiles(run, layout, kPieceChannels), parts * kPieceChannels / rows,
          rows * kSliceBytes / element_bytes(math)};
}

bool takes_packed_weight(const FusedPlan& plan) {
  return plan.tile >= 0 && kFpropTiles[plan.tile].architecture == 90;
}

std::string describe(const FusedPlan& plan) {
  const FpropTile& tile = kFpropTiles[plan.tile];
  return std::string(name_of(plan.math)) + ", tiles of " + std::to_string(tile.pixels) +
         " pixels x " + std::to_string(tile.channels) + " channels, split " +
         std::to_string(plan.split_k) +
         (plan.merged > 1 ? ", " + std::to_string(plan.merged) + " groups as one" : "") +
         (plan.prepacked ? ", weight packed before" : "");
}

FusedPlan plan_fused_forward(const ConvShape& shape, FusedMath math, const FusedDevice& device,
                             int tile, int split_k) {
  const int merges = merged_groups(shape, math, device.compute_capability);
  FusedPlan best;
  int64_t best_time = std::numeric_limits<int64_t>::max();
  for (int t = 0; t < kFpropTileCount; ++t) {
    if (tile >= 0 && t != tile) continue;
    if (!runs_on(kFpropTiles[t], device.compute_capability, tile >= 0)) continue;
    const int groups = kFpropTiles[t].architecture == 90 ? merges : 1;
    if (groups > 1 && !tile_merges(kFpropTiles[t], math)) continue;
    const ConvShape run = merged(shape, groups);
    const FusedLayout layout = fused_layout(run, element_bytes(math));
    for (int parts = 1; parts <= kMostParts; ++parts) {
      if (split_k > 0 && parts != split_k) continue;
      if (!fits(kFpropTiles[t], run, math, layout, parts)) continue;
      const FusedPlan plan = candidate(run, layout, math, groups, t, parts);
      const int64_t time = estimate(run, layout, plan, device.multiprocessors);
      if (time >= best_time) continue;
      best = plan;
      best_time = time;
    }
  }
  if (best.tile < 0) throw std::invalid_argument("fused has no such tile for this shape");
  return best;
}

bool worth_fused(const ConvShape& shape, FusedMath math) {
  if (shape.G == 1) return true;
  const int64_t multiplied =
      slice_products(shape, math) * kPieceChannels * (kSliceBytes / element_bytes(math));
  return multiplied <= kMostPadding * shape.K * shape.channels_per_group();
}

bool worth_fused_forward(const ConvShape& shape, FusedMath math, int compute_capability) {
  const int merges = merged_groups(shape, math, compute_capability);
  if (merges == 1 || worth_fused(shape, math)) return worth_fused(shape, math);
  return kLeastChannels * slice_products(merged(shape, merges), math) <= shape.C;
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
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  const int64_t addressed = bytes_of_a_warp(shape, math, layout, kWarpPixels);
  if (addressed >= kAddressedBytes) {
    return says("the bytes of the images that 16 output pixels meet", kAddressedBytes, addressed);
  }
  const int64_t channel_tiles = shape.G * tiles_of(shape.output_channels_per_group(), 64);
  if (channel_tiles >= kMostGridRows) {
    return says("a number of tiles of output channels", kMostGridRows, channel_tiles);
  }
  return "";
}

std::string why_not_fused_forward(const ConvShape& shape, FusedMath math, int compute_capability) {
  return why_not_fused(merged(shape, merged_groups(shape, math, compute_capability)), math);
}

}  // namespace dcn
