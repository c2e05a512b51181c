// The gradient of the backward operator: second derivatives of deformable convolution.
#pragma once

#include <array>
#include <vector>

#include "ops.h"

namespace dcn {

// The numbers of a call, as an autograd node keeps them.
struct CallOptions {
  std::vector<c10::SymInt> stride, padding, dilation;
  c10::SymInt groups, offset_groups;
  int64_t im2col_step;
};

// What the backward operator was called with.
struct BackwardArguments {
  Tensor grad, input, weight, offset;
  OptionalTensor mask;
  CallOptions options;
};

// The gradients of grad, input, weight, offset and mask from those of the backward operator's
// results (input weight offset mask bias, undefined where nothing depends on one). Left undefined
// are those that are not `wanted`, and zeros. A sum may be f32 beside a 16-bit tensor.
//
// Composed of differentiable operators alone, so it can be differentiated again.
std::array<Tensor, 5> double_backward(const BackwardArguments& call,
                                      const std::array<Tensor, 5>& incoming,
                                      const std::array<bool, 5>& wanted);

}  // namespace dcn
