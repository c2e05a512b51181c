#pragma once

#include "weights.h"

namespace dcn::cpu {

// The gradient of offset or mask, contiguous. Values have the type of the sums where `wide`, else
// that of the input.
struct SamplingGradient {
  void* data = nullptr;
  bool wide = false;
};

// Null outputs are not wanted.
template <typename Element>
struct BackwardCall {
  Problem<Element> problem;
  const Element* weight;          // [K, R, S, C/G]
  ImageView<const Element> grad;  // of the output
  ImageView<Element> grad_input;
  WeightGradient<Element> grad_weight;
  SamplingGradient grad_offset, grad_mask;

  bool wants_sampling() const { return grad_offset.data || grad_mask.data; }
  bool wants_grad_columns() const { return grad_input.data || wants_sampling(); }
};

template <typename Element>
void run_backward(const BackwardCall<Element>& call);

}  // namespace dcn::cpu
