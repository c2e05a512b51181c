// Which kernels this processor gets.
#pragma once

#include "kernels.h"

namespace dcn::cpu {

// The table for the capability that PyTorch reports; ATEN_CPU_CAPABILITY in the environment lowers
// it for both.
const KernelTable& kernel_table();

template <typename Element>
const Kernels<Element>& kernels();

}  // namespace dcn::cpu
