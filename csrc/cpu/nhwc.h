// An input as [N, H, W, C] in memory, a weight as [K, R, S, C/G].
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace dcn::cpu {

// A channels_last tensor as it is; anything else as a copy.
template <typename Element>
at::Tensor to_channels_last(const at::Tensor& tensor, const Kernels<Element>& kernels);

}  // namespace dcn::cpu
