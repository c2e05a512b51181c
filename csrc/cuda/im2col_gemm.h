// The algorithm im2col_gemm: every dtype, every shape. Tensors are NHWC in memory; the caller has
// converted them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "../plan.h"
#include "kernels/params.h"

namespace dcn {

// What forward and backward share: the call in the form that the kernels read.
struct Im2colGemmCall {
  ConvShape shape;
  Plan plan;
  Dtype dtype;
  bool tf32;
  at::Tensor input;   // [N, C, H, W], channels_last
  at::Tensor weight;  // [K, C/G, R, S], channels_last
  SamplingMap offset, mask;
};

// Writes `output` [N, K, P, Q], channels_last.
void im2col_gemm_forward(const Im2colGemmCall& call, const std::optional<at::Tensor>& bias,
                         const at::Tensor& output);

// The gradients that a backward pass asks for; undefined ones are not computed.
struct Im2colGemmGradients {
  at::Tensor input;   // channels_last; f32 (f64 for f64), zeroed: sums are added to it. Where the
                      // plan has sums in fixed point, in the call's dtype, written whole
  at::Tensor weight;  // [lanes, K, R*S*C/G], f32 (f64 for f64): each lane's sum, written whole
  at::Tensor offset;  // contiguous
  at::Tensor mask;    // contiguous
};

void im2col_gemm_backward(const Im2colGemmCall& call, const at::Tensor& grad,
                          const Im2colGemmGradients& gradients);

}  // namespace dcn
