// An input as [N, H, W, C] in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace dcn::cpu {

// Channels_last input as it is; anything else as a copy.
template <typename Element>
at::Tensor to_channels_last(const at::Tensor& input, const Kernels<Element>& kernels);

}  // namespace dcn::cpu
