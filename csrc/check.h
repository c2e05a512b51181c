// From tensors to a ConvShape: every condition on a call, and every message about it, for CPU, CUDA
// and autograd alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "shape.h"

namespace dcn {

// The tensors and numbers of one call, by reference and as the schema passes them.
struct DeformConvCall {
  const at::Tensor& input;                // [N, C, H, W]
  const at::Tensor& weight;               // [K, C/G, R, S]
  const at::Tensor& offset;               // [N, 2*D*R*S, P, Q], y before x
  const std::optional<at::Tensor>& mask;  // [N, D*R*S, P, Q]
  at::IntArrayRef stride, padding, dilation;
  int64_t groups, offset_groups;
  int64_t im2col_step;  // images (forward and backward walk) per chunk; 0: the plan decides

  bool has_mask() const { return mask.has_value() && mask->defined(); }
};

// Checks devices, dtypes, ranks and every size before any memory is touched. Throws with the values
// found and expected.
ConvShape check_forward(const DeformConvCall& call, const std::optional<at::Tensor>& bias);
ConvShape check_backward(const DeformConvCall& call, const at::Tensor& grad);
// The geometry with one output pixel, for what depends on the weight and the groups alone.
ConvShape check_pack(const at::Tensor& weight, int64_t groups, int64_t offset_groups);

}  // namespace dcn
