// The fused backward pass where few channels share their samples: what it takes of memory, and how
// many CTAs it has. Its input gradient is scattered: sums in f32 are added up by atomics, in no
// order.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "fused_plan.h"

namespace dcn {

struct ScatterPlan {
  int32_t ctas = 0;              // that share the tiles
  bool columns = false;          // of input, offset or mask, a gradient is wanted
  int64_t plane_bytes = 0;       // of the image
  int64_t packed_bytes = 0;      // of the weight
  int64_t transposed_bytes = 0;  // of the gradient, for the weight gradient in 32 bits
  int64_t partial_bytes = 0;     // sums that CTAs leave, of the weight gradient
  int64_t sum_bytes = 0;         // of the input gradient in f32, beside the workspace

  bool chosen() const { return ctas > 0; }
};
inline int64_t workspace_bytes(const ScatterPlan& plan) {
  return plan.plane_bytes + plan.packed_bytes + plan.transposed_bytes + plan.partial_bytes;
}
std::string describe(const ScatterPlan& plan);

// Whether fewer channels share their samples than a step of the gather (dgrad, ograd) has.
bool scatters(const ConvShape& shape);

// `output_mask`: which gradients are wanted, of input, weight, offset, mask and bias.
ScatterPlan plan_scatter(const ConvShape& shape, FusedMath math, int multiprocessors,
                         const std::array<bool, 5>& output_mask);

// Whether it is quicker than writing columns.
bool worth_scatter(const ConvShape& shape);

// Empty, or why these gradients are not for the scatter.
std::string why_not_scatter(const ConvShape& shape, FusedMath math, int multiprocessors,
                            const std::array<bool, 5>& output_mask);

}  // namespace dcn
