#include "fused_backward_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "dgrad_tiles.h"
#include "landing_plan.h"
#include "ograd_plan.h"
namespace dcn {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// Of all pieces together; the bias gradient's partial sums take less than what is left of 64.
constexpr int64_t kMostWorkspace = 63 * kMiB;
// They are of the whole batch, and leave landing lists the room for some images.
constexpr int64_t kMostPartBytes = 24 * kMiB;

// Nanoseconds on an H200: a tile's plans and its stores; parts of the offset and mask gradients.
constexpr int64_t kTileNs = 7000;
constexpr int64_t kPartBytesPerNs = 1000;

// Merged groups: channels of the image for each product of a slice and 64 output channels. Such a
// product takes 20 to 30 us for 16384 pixels and 9 taps, im2col_gemm 1.6 us for each channel of
// groups of 8, and 3.6 us depthwise (H200, bf16).
constexpr int64_t kLeastChannels = 20;
// A smaller call lasts as long as its launches. By im2col_gemm and by fused (H200, us, bf16, tf32
// and f32): 2 x 96 channels in 96 groups, 7x7 (2 billion products) 810 and 179, 881 and 271, 885
// and 367; 1 x 256 in 8 groups of 16 to 32, 60 x 60 (265 million) 75 and 81, 93 and 82, 145 and 95;
// 2 x 48 in 4 groups, 64 x 64 (170 million) 128 and 88, 144 and 82, 233 and 135; 1 x 256 in 32
// groups, 32 x 32 (151 million) 79 and 85, 62 and 87, 99 and 127.
constexpr int64_t kLeastMergedProducts = 160'000'000;

// Where fused is quicker than im2col_gemm (H200, 3x3 kernels). A smaller call lasts as long as its
// dozen launches: 2 x 64 x 32 x 32 takes 71 us by im2col_gemm, 99 by fused; with 3xTF32, where
// im2col_gemm has no tensor cores, 65 and 54. Columns cost memory traffic in proportion to the
// channels, products in proportion to their square, and cuBLAS multiplies better than these kernels
// do: at 512 x 256 channels both take the same, at 512 x 512 fused takes 1.6 times as long in 16
// bits and 1.7 in tf32; with 3xTF32 0.92 times.
int64_t least_products(const ConvShape& shape, FusedMath math) {
  const bool small = math == FusedMath::k3xTf32 && shape.taps() >= kPlanTaps && !scatters(shape);
  return int64_t{1} << (small ? 26 : 29);
}
constexpr int32_t most_channels(FusedMath math) {  // in or out, whichever are fewer
  return math == FusedMath::k3xTf32 ? 512 : 256;
}

int64_t products(const ConvShape& shape) {
  return shape.output_pixels() * shape.output_channels_per_group() * shape.gemm_k() * shape.G;
}

// Whether each group by itself fills tiles well enough.
bool groups_fill_tiles(const ConvShape& shape, FusedMath math) {
  return worth_fused(shape, math) && worth_fused(transposed(shape), math);
}

// The channels of a tile share their samples.
bool within_offset_group(const ConvShape& shape, int channels) {
  return shape.D == 1 || shape.channels_per_offset_group() % channels == 0 ||
         shape.channels_per_offset_group() % shape.channels_per_group() == 0;
}

bool dgrad_fits(const FpropTile& tile, const ConvShape& shape, FusedMath math, int32_t steps,
                int split_k) {
  return dgrad_tile_exists(tile, math) && within_offset_group(shape, tile.channels) &&
         split_fits(tile, math, steps, split_k);
}

DgradPlan dgrad_candidate(const ConvShape& chunk, const FusedLayout& grad_layout, FusedMath math,
                          int tile, int split_k) {
  DgradPlan plan;
  plan.tile = tile;
  plan.split_k = split_k;
  plan.images = chunk.N;
  plan.landing_bytes = landing_bytes(chunk, chunk.N, grad_layout.channels);
  plan.irregular_bytes = irregular_bytes(dgrad_rows(transposed(chunk)));
  return plan;
}

int64_t dgrad_tiles(const ConvShape& chunk, const FpropTile& tile) {
  return tiles_of(dgrad_rows(transposed(chunk)), tile.pixels) * chunk.G *
         tiles_of(chunk.channels_per_group(), tile.channels);
}

// Nanoseconds of a chunk.
int64_t estimate(const ConvShape& chunk, const DgradPlan& plan, FusedMath math, int32_t all_steps,
                 int multiprocessors) {
  const FpropTile& tile = kDgradTiles[plan.tile];
  const int64_t rounds =
      tiles_of(dgrad_tiles(chunk, tile), clusters_at_once(multiprocessors, plan.split_k));
  return rounds * (tiles_of(all_steps, plan.split_k) * step_ns(tile, math) + kTileNs +
                   exchange_ns(tile, plan.split_k));
}

// With 3xTF32, beside other gradients. Their CTAs fill what those of tiles leave, and each part
// plans its samples anew: not more than two parts where these have a round, and one part only where
// tiles nearly have one. By 1, 2, 3 and 4 parts the whole backward pass takes (H200, us; by their
// own time 4 parts were the quickest): 2 x 512 x 25 x 42 to 512 channels 626, 514, 553, 562; 6 x
// 512 x 19 x 34 to 256 567, 462, 474, 485; 2 x 256 x 50 x 84 to 256 546, 503, 504, 505.
bool suits_others(int64_t tiles, int parts, int multiprocessors) {
  if (2 * tiles <= multiprocessors) return true;
  return parts == 2 || (parts == 1 && 4 * tiles > 3 * multiprocessors);
}

DgradPlan plan_dgrad(const ConvShape& shape, FusedMath math, int multiprocessors, int64_t allowance,
                     bool alone) {
  const FusedLayout grad_layout = fused_layout(transposed(shape), element_bytes(math));
  ConvShape chunk = shape;
  const int32_t most = images_of_chunk(shape, grad_layout.channels, allowance);
  chunk.N = static_cast<int32_t>(tiles_of(shape.N, tiles_of(shape.N, most)));  // even chunks
  DgradPlan best;
  int64_t best_time = std::numeric_limits<int64_t>::max();
  bool best_suits = false;
  for (int t = 0; t < kDgradTileCount; ++t) {
    const int64_t tiles = dgrad_tiles(chunk, kDgradTiles[t]);
    for (int parts = 1; parts <= kMostParts; ++parts) {
      if (!dgrad_fits(kDgradTiles[t], shape, math, grad_layout.steps, parts)) continue;
      const DgradPlan plan = dgrad_candidate(chunk, grad_layout, math, t, parts);
      const int64_t time = estimate(chunk, plan, math, grad_layout.steps, multiprocessors);
      const bool suits =
          alone || math != FusedMath::k3xTf32 || suits_others(tiles, parts, multiprocessors);
      if (suits < best_suits || (suits == best_suits && time >= best_time)) continue;
      best = plan;
      best_time = time;
      best_suits = suits;
    }
  }
  if (best.tile < 0) throw std::invalid_argument("the fused input gradient has no such tile");
  return best;
}

// A part of owgrad's CTAs; for fewer it is not worth cutting tiles unevenly.
constexpr int64_t kLeastEarly = 8;

// A CTA of either kernel fills a multiprocessor. Where dgrad has fewer CTAs than there are, they
// follow on the last CTAs of owgrad, and the first ones have as many steps more as dgrad takes.
void share_with_dgrad(WgradPlan& owgrad, const DgradPlan& dgrad, const ConvShape& shape,
                      FusedMath math, int multiprocessors) {
  const WgradTile& tile = kWgradTiles[owgrad.tile];
  const int64_t replaced =
      dgrad_tiles(shape, kDgradTiles[dgrad.tile]) * dgrad.split_k - (multiprocessors - owgrad.ctas);
  const int64_t early = owgrad.ctas - std::max<int64_t>(replaced, 0);
  const bool many_left = early * kLeastEarly >= owgrad.ctas && early < owgrad.ctas;
  if (dgrad.images < shape.N || !many_left) return;
  const FusedLayout grad_layout = fused_layout(transposed(shape), element_bytes(math));
  const int64_t steps =
      wgrad_work(shape, fused_layout(shape, element_bytes(math)), tile).all_steps();
  const int64_t time = estimate(shape, dgrad, math, grad_layout.steps, multiprocessors);
  const int64_t more = time / owgrad_step_ns(tile, math);
  const int64_t least = (steps - early * more) / owgrad.ctas;
  if (least < 1) return;
  owgrad.early_ctas = static_cast<int>(early);
  owgrad.early_steps = early * (least + more);
}

}  // namespace

int64_t workspace_bytes(const FusedBackwardPlan& plan, const ConvShape& shape) {
  const DgradPlan& dgrad = plan.dgrad;
  const int64_t chunks = dgrad.images > 0 ? tiles_of(shape.N, dgrad.images) : 0;
  if (plan.scatter.chosen()) return workspace_bytes(plan.scatter);
  return plan.packed_bytes + plan.wgrad.partial_bytes + plan.owgrad_part_bytes +
         dgrad.landing_bytes + chunks * dgrad.irregular_bytes;
}

int merged_backward_groups(const ConvShape& shape, FusedMath math) {
  const int32_t channels = std::max(shape.channels_per_group(), shape.output_channels_per_group());
  const int32_t most = std::min(shape.G, kPieceChannels / channels);
  if (most < 2) return 1;
  const auto both_ways = [&](const ConvShape& run) {
    return slice_products(run, math) + slice_products(transposed(run), math);
  };
  int best = 1;
  int64_t least = both_ways(shape) - 1;
  for (int32_t groups = 2; groups <= most; ++groups) {
    if (shape.G % groups != 0) continue;
    const ConvShape run = merged(shape, groups);
    if (run.channels_per_offset_group() % run.channels_per_group() != 0) continue;
    const int64_t multiplied = both_ways(run);
    if (multiplied > least) continue;
    best = groups;
    least = multiplied;
  }
  return best;
}

std::string describe(const FusedBackwardPlan& plan) {
  std::string text = name_of(plan.math);
  if (plan.merged > 1) text += ", " + std::to_string(plan.merged) + " groups as one";
  if (plan.scatter.chosen()) return text + describe(plan.scatter);
  if (plan.dgrad.tile >= 0) {
    const FpropTile& tile = kDgradTiles[plan.dgrad.tile];
    text += ", input gradient in tiles of " + std::to_string(tile.pixels) + " pixels x " +
            std::to_string(tile.channels) + " channels, split " +
            std::to_string(plan.dgrad.split_k) + ", " + std::to_string(plan.dgrad.images) +
            " images at a time";
  }
  if (plan.ograd) text += ", sampling gradients";
  if (plan.wgrad.tile >= 0) {
    text += std::string(plan.owgrad ? " with" : ",") + " weight gradient by " +
            std::to_string(plan.wgrad.ctas) + " CTAs";
  }
  return text;
}

FusedBackwardPlan plan_fused_backward(const ConvShape& of_call, FusedMath math, int multiprocessors,
                                      const std::array<bool, 5>& output_mask) {
  FusedBackwardPlan plan;
  plan.math = math;
  plan.merged = merged_backward_groups(of_call, math);
  const ConvShape shape = merged(of_call, plan.merged);
  if (scatters(shape)) {
    plan.scatter = plan_scatter(shape, math, multiprocessors, output_mask);
    return plan;
  }
  plan.ograd = output_mask[2] || output_mask[3];
  if (output_mask[1]) plan.wgrad = plan_wgrad(shape, math, multiprocessors);
  if (output_mask[1] && plan.ograd && why_not_owgrad(shape, math).empty()) {
    const WgradPlan both = plan_wgrad(shape, math, multiprocessors, -1, 0, owgrad_step_ns);
    const int64_t part_bytes =
        owgrad_part_bytes(shape, fused_layout(shape, element_bytes(math)), kWgradTiles[both.tile]);
    const bool quicker = both.time_ns + part_bytes / kPartBytesPerNs <
                         plan.wgrad.time_ns + plan_ograd(shape, math, multiprocessors).time_ns;
    plan.owgrad = quicker && part_bytes <= kMostPartBytes;
    if (plan.owgrad) {
      plan.wgrad = both;
      plan.owgrad_part_bytes = part_bytes;
    }
  }
  if (plan.ograd || output_mask[0]) {
    const FusedLayout layout = fused_layout(transposed(shape), element_bytes(math));
    plan.packed_bytes = packed_bytes(transposed(shape), layout, weight_parts(math), kPieceChannels);
  }
  if (output_mask[0]) {
    const int64_t taken = workspace_bytes(plan, shape);
    const bool alone = !plan.ograd && plan.wgrad.tile < 0;
    plan.dgrad = plan_dgrad(shape, math, multiprocessors, kMostWorkspace - taken, alone);
    if (plan.owgrad) share_with_dgrad(plan.wgrad, plan.dgrad, shape, math, multiprocessors);
  }
  return plan;
}

// H200, bf16, gathered and in fixed point: 2 x 64 x 32 x 32 takes 39 and 75 us, 2 x 512 x 25 x 42
// 138 and 236.
bool worth_gather(const ConvShape& shape, FusedMath math) {
  if (groups_fill_tiles(shape, math)) return true;
  const int merges = merged_backward_groups(shape, math);
  return merges > 1 && kLeastChannels * slice_products(merged(shape, merges), math) <= shape.C;
}

bool worth_fused_backward(const ConvShape& shape, FusedMath math) {
  if (scatters(shape) && !worth_scatter(shape)) return false;
  const int32_t channels = std::min(shape.channels_per_group(), shape.output_channels_per_group());
  if (channels > most_channels(math)) return false;
  if (groups_fill_tiles(shape, math) && products(shape) >= least_products(shape, math)) return true;
  const int merges = merged_backward_groups(shape, math);
  return merges > 1 && products(merged(shape, merges)) >= kLeastMergedProducts &&
         worth_gather(shape, math);
}

std::string why_not_fused_backward(const ConvShape& of_call, FusedMath math,
                                   const FusedDevice& device,
                                   const std::array<bool, 5>& output_mask) {
  const int compute_capability = device.compute_capability;
  if (compute_capability / 10 != 9) {
    return "the backward pass of fused needs compute capability 9.x, but the device has " +
           std::to_string(compute_capability / 10) + "." + std::to_string(compute_capability % 10);
  }
  const ConvShape shape = merged(of_call, merged_backward_groups(of_call, math));
  for (const ConvShape& each : {shape, transposed(shape)}) {
    const std::string why = why_not_fused(each, math);
    if (!why.empty()) return why;
  }
  if (scatters(shape)) return why_not_scatter(shape, math, device.multiprocessors, output_mask);
  std::string why;
  if (output_mask[2] || output_mask[3]) why = why_not_ograd(shape, math);
  if (why.empty() && output_mask[1]) why = why_not_wgrad(shape, math);
  if (!why.empty() || !output_mask[0]) return why;
  return why_not_landing(shape, 1);
}

}  // namespace dcn
