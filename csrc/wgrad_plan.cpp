#include "wgrad_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace dcn {
namespace {

// Beyond inputs and outputs, unless one CTA a tile already leaves more.
constexpr int64_t kMostPartialBytes = int64_t{24} << 20;

// Nanoseconds on an H200: what a segment takes beside its steps, and the addition of the sums.
constexpr int64_t kSegmentNs = 2500;
constexpr int64_t kSumNs = 3000;
constexpr int64_t kSumBytesPerNs = 4000;

// Where each tile has as many CTAs, they are at the same pixels at the same time: what is too much
// for the L2 comes from memory once, not once a tile (16 x 64 x 128 x 128: 8 % less time).
constexpr int64_t kStreamedBytes = int64_t{24} << 20;
constexpr int kStreamedPercent = 106;

int64_t estimate(const WgradWork& work, int step_ns, const WgradPlan& plan, bool is_short,
                 bool streams) {
  const int64_t steps = tiles_of(work.all_steps(), plan.ctas);
  const bool aligned = is_short && plan.ctas % work.tiles() == 0;
  const int64_t segments = aligned ? 1 : tiles_of(steps - 1, work.steps) + 1;
  const int64_t percent = is_short && streams && !aligned ? kStreamedPercent : 100;
  return steps * step_ns * percent / 100 + segments * kSegmentNs + kSumNs +
         plan.partial_bytes / kSumBytesPerNs;
}

}  // namespace

WgradPlan plan_wgrad(const ConvShape& shape, FusedMath math, int multiprocessors, int tile,
                     int ctas, int (*step_time)(const WgradTile&, FusedMath)) {
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  WgradPlan best;
  best.time_ns = std::numeric_limits<int64_t>::max();
  bool best_bounded = false;
  const int bytes = element_bytes(math);
  const int64_t streamed =
      (shape.input_pixels() * shape.C + shape.output_pixels() * shape.K) * bytes;
  for (int t = 0; t < kWgradTileCount; ++t) {
    const int time_of_step = step_time(kWgradTiles[t], math);
    if ((tile >= 0 && t != tile) || time_of_step == 0) continue;
    const WgradWork work = wgrad_work(shape, layout, kWgradTiles[t]);
    const int most = static_cast<int>(std::min<int64_t>(multiprocessors, work.all_steps()));
    for (int c = 1; c <= most; ++c) {
      if (ctas > 0 && c != std::min(ctas, most)) continue;
      WgradPlan plan{t, c};
      plan.partial_bytes =
          (work.tiles() + c - 1) * segment_bytes(kWgradTiles[t], element_bytes(math));
      plan.time_ns = estimate(work, time_of_step, plan, bytes == 2, streamed > kStreamedBytes);
      const bool bounded = plan.partial_bytes <= kMostPartialBytes;
      if (bounded < best_bounded || (bounded == best_bounded && plan.time_ns >= best.time_ns)) {
        continue;
      }
      best = plan;
      best_bounded = bounded;
    }
  }
  if (best.tile < 0) throw std::invalid_argument("no such tile of the weight gradient");
  return best;
}

std::string why_not_wgrad(const ConvShape& shape, FusedMath math) {
  const std::string why = why_not_fused(shape, math);
  if (!why.empty()) return why;
  const FusedLayout layout = fused_layout(shape, element_bytes(math));
  if (layout.narrow) {
    return "the fused weight gradient needs slices of " +
           std::to_string(kSliceBytes / element_bytes(math)) +
           " channels that share their offsets, but an offset group has " +
           std::to_string(shape.channels_per_offset_group());
  }
  constexpr int64_t kAddressedVectors = int64_t{1} << 32;
  const int64_t vectors =
      shape.input_pixels() * layout.channels * element_bytes(math) / kVectorBytes;
  if (vectors >= kAddressedVectors) {
    return "the fused weight gradient needs an input of less than 64 GiB, but it has " +
           std::to_string(vectors * kVectorBytes) + " bytes";
  }
  return "";
}

}  // namespace dcn
