// The gradient of the bias: the sum of grad over all output pixels.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAStream.h>

#include "../shape.h"

namespace dcn {

// Allocated where it is made, so that it can run on another stream later.
class BiasGradient {
 public:
  // `grad` is [N, K, P, Q], channels_last.
  BiasGradient(const at::Tensor& grad, const ConvShape& shape);
  void run(c10::cuda::CUDAStream stream) const;
  const at::Tensor& gradient() const { return gradient_; }

 private:
  const at::Tensor grad_;
  const ConvShape shape_;
  at::Tensor gradient_, partial_;
};

}  // namespace dcn
