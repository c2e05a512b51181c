// The backward pass of the algorithm fused: no columns in memory, no float atomics, the same bits
// each run. Compute capability 9.x.
#pragma once

#include <ATen/core/Tensor.h>

#include "bias_gradient.h"
#include "fused.h"

namespace dcn {

// What is wanted, each in the dtype, sizes and strides that the caller is owed; undefined
// otherwise.
struct FusedGradients {
  at::Tensor input;         // dense in NCHW or channels_last
  at::Tensor weight;        // any strides
  at::Tensor offset, mask;  // contiguous
};

// `grad` is [N, K, P, Q], channels_last. `bias` runs beside the others, if there is one.
void fused_backward(const FusedCall& call, const at::Tensor& grad, const FusedGradients& gradients,
                    const BiasGradient* bias);

}  // namespace dcn
