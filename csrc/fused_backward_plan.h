// The fused algorithm's part of the plan of a backward pass: which pieces run, with which tiles,
// and what they take of memory.
//
// Three pieces run side by side: the offset and mask gradients (ograd), the weight gradient (wgrad)
// and the input gradient, which is gathered from landing lists (dgrad), for some images of the
// batch at a time. One kernel makes the first two where it can (owgrad). Where few channels share
// their samples, the scatter makes all of them.
#pragma once

#include <array>
#include <string>

#include "fused_plan.h"
#include "owgrad_plan.h"
#include "scatter_plan.h"

namespace dcn {

struct DgradPlan {
  int tile = -1;  // of kDgradTiles; -1: there is no input gradient to make
  int split_k = 1;
  int32_t images = 0;           // of a chunk
  int64_t landing_bytes = 0;    // of a chunk
  int64_t irregular_bytes = 0;  // which tiles the second kernel computes, of a chunk
};

struct FusedBackwardPlan {
  FusedMath math = FusedMath::kF16;
  int merged = 1;  // convolution groups that run as one
  bool ograd = false;
  WgradPlan wgrad;                // tile -1: there is no weight gradient to make
  bool owgrad = false;            // one kernel for both
  int64_t owgrad_part_bytes = 0;  // of the offset and mask gradients
  DgradPlan dgrad;
  int64_t packed_bytes = 0;  // of the weight, transposed
  ScatterPlan scatter;       // instead of those three
};
int64_t workspace_bytes(const FusedBackwardPlan& plan, const ConvShape& shape);
std::string describe(const FusedBackwardPlan& plan);

// How many convolution groups run as one in the backward pass: at most as many as have the channels
// of a tile together, in and out, and all in one offset group; where that saves products.
int merged_backward_groups(const ConvShape& shape, FusedMath math);

// `output_mask`: which gradients are wanted, of input, weight, offset, mask and bias.
FusedBackwardPlan plan_fused_backward(const ConvShape& shape, FusedMath math, int multiprocessors,
                                      const std::array<bool, 5>& output_mask);

// Whether fused is quicker than writing columns.
bool worth_fused_backward(const ConvShape& shape, FusedMath math);
// The same, beside columns whose input gradient is added up in fixed point. Where fused gathers.
bool worth_gather(const ConvShape& shape, FusedMath math);

// Empty, or why the backward pass of this shape is not for fused.
std::string why_not_fused_backward(const ConvShape& shape, FusedMath math,
                                   const FusedDevice& device,
                                   const std::array<bool, 5>& output_mask);

}  // namespace dcn
