// The fused algorithm's part of the plan: which tile, and how many CTAs share one.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "shape.h"

namespace dcn {

// How the tensor cores multiply. f32 is tf32 where the caller's switch allows it, otherwise three
// tf32 products of leading and trailing parts, which keep f32's accuracy.
enum class FusedMath { kF16, kBF16, kTf32, k3xTf32 };
const char* name_of(FusedMath math);
constexpr int element_bytes(FusedMath math) {
  return math == FusedMath::kF16 || math == FusedMath::kBF16 ? 2 : 4;
}
// What the plan says of a fused call.
struct FusedPlan {
  FusedMath math = FusedMath::kF16;
  int tile = -1;  // of kFpropTiles
  int split_k = 1;
  int merged = 1;            // convolution groups that run as one
  int64_t packed_bytes = 0;  // of the weight, where the call packs it
  bool prepacked = false;    // the caller has done that before
};
inline int64_t workspace_bytes(const FusedPlan& plan) { return plan.packed_bytes; }

std::string describe(const FusedPlan& plan);

// What is multiplied for each tap: a slice of the image's channels by 64 output channels, so often.
int64_t slice_products(const ConvShape& shape, FusedMath math);

// How many convolution groups run as one in the forward pass: at most as many as have a slice's
// channels together, where that saves products; one on other devices than those of 9.x.
int merged_groups(const ConvShape& shape, FusedMath math, int compute_capability);

// The tile and the split: the given ones (-1, 0: free), or the quickest by the estimate.
// A tile of fprop_sm80 runs on any device, and is chosen where fprop_sm90 does not run.
struct FusedDevice {
  int compute_capability;  // 90 for 9.0
  int multiprocessors;
};
FusedPlan plan_fused_forward(const ConvShape& shape, FusedMath math, const FusedDevice& device,
                             int tile, int split_k);

// A weight packed once for all calls on compute capability 9.x: the sizes of its tensor, [tiles and
// their steps, rows, elements]. With the dtype they tell arithmetics apart, not the order of the
// steps, which depends on C, K, R, S, G and D alone.
std::array<int64_t, 3> packed_sizes(const ConvShape& shape, FusedMath math);
// Whether the kernel of the plan reads that.
bool takes_packed_weight(const FusedPlan& plan);

// Whether fused is quicker than writing columns: it multiplies whole tiles, so small groups are
// mostly zeros.
bool worth_fused(const ConvShape& shape, FusedMath math);
// The same of the forward pass, with small groups merged.
bool worth_fused_forward(const ConvShape& shape, FusedMath math, int compute_capability);

// Empty, or why fused is not for a pass of this shape.
std::string why_not_fused(const ConvShape& shape, FusedMath math);
std::string why_not_fused_forward(const ConvShape& shape, FusedMath math, int compute_capability);

}  // namespace dcn
