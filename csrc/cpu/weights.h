// The weight as the matrices that the GEMMs read, and the weight gradient back from them. Sums,
// whatever the weight's type.
#pragma once

#include "problem.h"

namespace dcn::cpu {

// A weight gradient: [K, C/G, R, S], or [K, R, S, C/G] where channels_last. A weight is always the
// latter.
template <typename Element>
struct WeightGradient {
  Element* data = nullptr;
  bool channels_last = true;
};

// Output channels that one call of the micro-kernel computes. It reads the weight in strips of this
// width: cut so, they are contiguous, where rows of 512 channels would lie half a memory page
// apart.
constexpr int64_t kPanel = 64;

// For each block, group and panel [value of the column][k]: the right-hand matrices of out =
// columns * packed.
template <typename Element>
void pack_forward(const Problem<Element>& problem, const BlockList& list, const Element* weight,
                  AccType<Element>* packed);

// For each block and group [k][value of the column]: the right-hand matrix of grad_columns = grad *
// packed.
template <typename Element>
void pack_backward(const Problem<Element>& problem, const BlockList& list, const Element* weight,
                   AccType<Element>* packed);

// The sum of `parts` gradients, packed as by pack_backward, in their order.
template <typename Element>
void unpack_gradient(const Problem<Element>& problem, const BlockList& list,
                     const AccType<Element>* packed, int64_t parts,
                     WeightGradient<Element> gradient);

}  // namespace dcn::cpu
