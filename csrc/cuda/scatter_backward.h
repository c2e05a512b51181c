// The fused backward pass where few channels share their samples.
#pragma once

#include "fused_backward.h"

namespace dcn {

// As fused_backward, of a plan that scatters.
void scatter_backward(const FusedCall& call, const at::Tensor& grad,
                      const FusedGradients& gradients, const BiasGradient* bias);

}  // namespace dcn
