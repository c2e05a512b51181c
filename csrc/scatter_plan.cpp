#include "scatter_plan.h"

#include <algorithm>

#include "ograd_plan.h"
#include "wgrad_narrow_tiles.h"

namespace dcn {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kMostWorkspace = 63 * kMiB;  // as of the gather
constexpr int64_t kMostPartialBytes = 24 * kMiB;

}  // namespace

bool scatters(const ConvShape& shape) {
  const int32_t per_group = shape.channels_per_group();
  const int32_t per_offset_group = shape.channels_per_offset_group();
  const bool whole_steps =
      per_group % per_offset_group == 0 && per_offset_group % kOgradChannels == 0;
  return per_offset_group % per_group != 0 && !whole_steps;
}

ScatterPlan plan_scatter(const ConvShape& shape, FusedMath math, int multiprocessors,
                         const std::array<bool, 5>& output_mask) {
  const int bytes = element_bytes(math);
  ScatterPlan plan;
  plan.samples = output_mask[0] || output_mask[2] || output_mask[3];
  if (output_mask[1] || output_mask[2] || output_mask[3]) {
    plan.plane_bytes = plane_bytes(shape, bytes);
  }
  if (plan.samples) plan.packed_bytes = packed_scatter_bytes(shape, math);
  if (output_mask[0]) {
    plan.sum_bytes = shape.input_pixels() * fused_layout(shape, bytes).channels * sizeof(float);
  }
  if (output_mask[1]) {
    const WgradNarrowWork work = wgrad_narrow_work(shape, bytes);
    const int64_t slice_bytes = narrow_partial_bytes(shape, bytes, 1);
    const int64_t most = std::min<int64_t>(work.steps, kMostPartialBytes / slice_bytes);
    const int64_t wanted = int64_t{multiprocessors} * narrow_resident(math) / work.units(shape);
    plan.slices = static_cast<int32_t>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(most, 1)));
    plan.partial_bytes = plan.slices * slice_bytes;
    plan.transposed_bytes = transposed_grad_bytes(shape, bytes);
  }
  return plan;
}

// H200, 1 x 128 x 180 x 320 with 16 offset groups: 542 us in 16 bits, 795 in tf32 and 980 with
// 3xTF32, where im2col_gemm takes 806, 1043 and 1393. Other groups were not compared.
bool worth_scatter(const ConvShape& shape) {
  return shape.channels_per_offset_group() == kBlockChannels;
}

std::string describe(const ScatterPlan& plan) {
  std::string text;
  if (plan.samples) text += ", scattered samples";
  if (plan.slices > 0) {
    text += ", weight gradient in " + std::to_string(plan.slices) + " slices of the pixels";
  }
  return text;
}

std::string why_not_scatter(const ConvShape& shape, FusedMath math,
                            const std::array<bool, 5>& output_mask) {
  const int64_t tiles = tiles_of(shape.P, kScatterRows) * tiles_of(shape.Q, kScatterColumns);
  constexpr int64_t kMostCtas = (int64_t{1} << 31) - 1;
  if (shape.N * tiles * shape.D > kMostCtas) {
    return "the scatter needs a number of tiles times offset groups below 2^31, but the call has " +
           std::to_string(shape.N * tiles * shape.D);
  }
  const ScatterPlan plan = plan_scatter(shape, math, 1, output_mask);
  if (workspace_bytes(plan) > kMostWorkspace) {
    return "the fused backward pass of narrow offset groups needs image, gradient and weight in "
           "orders of its own within 63 MiB, but they have " +
           std::to_string(workspace_bytes(plan) / kMiB) + " MiB";
  }
  return "";
}

}  // namespace dcn
