#include "capability.h"

#include <ATen/Version.h>

namespace dcn::cpu {

const KernelTable& kernel_table() {
#if defined(__x86_64__)
  static const KernelTable& table = []() -> const KernelTable& {
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return kKernelsAVX512;
    if (capability == "AVX2") return kKernelsAVX2;
    return kKernelsDEFAULT;
  }();
  return table;
#else
  return kKernelsDEFAULT;
#endif
}

template <>
const Kernels<double>& kernels() {
  return kernel_table().f64;
}
template <>
const Kernels<float>& kernels() {
  return kernel_table().f32;
}
template <>
const Kernels<Half>& kernels() {
  return kernel_table().f16;
}
template <>
const Kernels<BFloat16>& kernels() {
  return kernel_table().bf16;
}

}  // namespace dcn::cpu
