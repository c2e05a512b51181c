#include "scatter_plan.h"

#include <algorithm>

#include "ograd_plan.h"
#include "scatter_tiles.h"

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
  plan.columns = output_mask[0] || output_mask[2] || output_mask[3];
  if (!plan.columns && !output_mask[1]) return plan;
  const int64_t items = scatter_work(shape, bytes).tiles * shape.D;
  int64_t ctas = std::min<int64_t>(items, int64_t{multiprocessors} * scatter_resident(math));
  if (plan.columns) plan.packed_bytes = packed_scatter_bytes(shape, math);
  if (output_mask[1] || output_mask[2] || output_mask[3]) {
    plan.plane_bytes = plane_bytes(shape, bytes);
  }
  if (output_mask[0]) {
    plan.sum_bytes = input_sum_bytes(shape, bytes);
  }
  if (output_mask[1]) {
    const int64_t one = scatter_partial_bytes(shape, bytes, 1);
    const int64_t more = scatter_partial_bytes(shape, bytes, 2) - one;
    const int64_t most = 1 + std::max<int64_t>(kMostPartialBytes - one, 0) / more;
    ctas = std::min(ctas, most);
    plan.partial_bytes = scatter_partial_bytes(shape, bytes, ctas);
    if (bytes == 4) plan.transposed_bytes = transposed_grad_bytes(shape, bytes);
  }
  plan.ctas = static_cast<int32_t>(ctas);
  return plan;
}

// H200, 1 x 128 x 180 x 320 with 16 offset groups: 310 us in 16 bits, 648 in tf32 and 827 with
// 3xTF32, where im2col_gemm takes 806, 1043 and 1393. Other groups were not compared.
bool worth_scatter(const ConvShape& shape) {
  return shape.channels_per_offset_group() == kBlockChannels;
}

std::string describe(const ScatterPlan& plan) {
  std::string text = ", samples by " + std::to_string(plan.ctas) + " CTAs";
  if (plan.sum_bytes > 0) text += ", scattered";
  return text;
}

std::string why_not_scatter(const ConvShape& shape, FusedMath math, int multiprocessors,
                            const std::array<bool, 5>& output_mask) {
  const int64_t items = scatter_work(shape, element_bytes(math)).tiles * shape.D;
  constexpr int64_t kMostItems = (int64_t{1} << 31) - 1;
  if (items > kMostItems) {
    return "the scatter needs a number of tiles times offset groups below 2^31, but the call has " +
           std::to_string(items);
  }
  const ScatterPlan plan = plan_scatter(shape, math, multiprocessors, output_mask);
  if (workspace_bytes(plan) > kMostWorkspace) {
    return "the fused backward pass of narrow offset groups needs image, gradient and weight in "
           "orders of its own, and sums, within 63 MiB, but they have " +
           std::to_string(workspace_bytes(plan) / kMiB) + " MiB";
  }
  return "";
}

}  // namespace dcn
