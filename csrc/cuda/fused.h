// The algorithm fused: an implicit GEMM on tensor cores that samples into registers and writes no
// columns to memory. Forward, compute capability 8.0 and newer.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "../plan.h"
#include "kernels/params.h"

namespace dcn {

struct FusedCall {
  ConvShape shape;
  Plan plan;
  int multiprocessors;
  at::Tensor input;   // any strides
  at::Tensor weight;  // any strides
  SamplingMap offset, mask;
  at::Tensor packed_weight;  // where the plan says prepacked
};

// The weight packed once for all calls of its C, K, R, S, G and D with that arithmetic.
at::Tensor fused_pack_weight(const ConvShape& shape, FusedMath math, const at::Tensor& weight);
// Whether the plan's kernel can read `packed` instead of the weight.
bool fused_takes(const at::Tensor& packed, const ConvShape& shape, const FusedPlan& plan,
                 const at::Tensor& weight);

// Writes `output` [N, K, P, Q], dense in NCHW or channels_last.
void fused_forward(const FusedCall& call, const std::optional<at::Tensor>& bias,
                   const at::Tensor& output);

}  // namespace dcn
