#pragma once

#include "weights.h"

namespace dcn::cpu {

template <typename Element>
struct ForwardCall {
  Problem<Element> problem;
  const Element* weight;  // [K, R, S, C/G]
  const Element* bias;    // [K], or null
  ImageView<Element> output;
};

template <typename Element>
void run_forward(const ForwardCall<Element>& call);

}  // namespace dcn::cpu
