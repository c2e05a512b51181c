// Autocast: the tensors that meet in the GEMM take the autocast dtype. An f32 offset stays f32,
// since it carries coordinates; any other offset takes the autocast dtype too, so that no mixture
// reaches the kernels.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "ops.h"

namespace dcn {
namespace {

template <c10::DispatchKey kKey, c10::DeviceType kDevice>
Tensor deform_conv2d_autocast(const Tensor& input, const Tensor& weight, const Tensor& offset,
                              const OptionalTensor& mask, const OptionalTensor& bias,
                              c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                              c10::SymIntArrayRef dilation, c10::SymInt groups,
                              c10::SymInt offset_groups, int64_t im2col_step,
                              const OptionalTensor& packed_weight) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKeySet(kKey)};
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(kDevice);
  const auto cast = [dtype](const Tensor& tensor) {
    return at::autocast::cached_cast(dtype, tensor, kDevice);
  };
  const auto cast_optional = [&](const OptionalTensor& tensor) {
    return tensor.has_value() && tensor->defined() ? OptionalTensor(cast(*tensor)) : std::nullopt;
  };
  // f64 is left alone by autocast, so an f64 call stays f64 throughout.
  if (input.scalar_type() == at::kDouble) {
    return forward_operator().call(input, weight, offset, mask, bias, stride, padding, dilation,
                                   groups, offset_groups, im2col_step, packed_weight);
  }
  const Tensor offset_cast = offset.scalar_type() == at::kFloat ? offset : cast(offset);
  return forward_operator().call(cast(input), cast(weight), offset_cast, cast_optional(mask),
                                 cast_optional(bias), stride, padding, dilation, groups,
                                 offset_groups, im2col_step, packed_weight);
}

// Packed is what a call under the same autocast multiplies.
template <c10::DispatchKey kKey, c10::DeviceType kDevice>
Tensor pack_weight_autocast(const Tensor& weight, c10::SymInt groups, c10::SymInt offset_groups) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKeySet(kKey)};
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(kDevice);
  return pack_operator().call(at::autocast::cached_cast(dtype, weight, kDevice), groups,
                              offset_groups);
}

TORCH_LIBRARY_IMPL(dcn, AutocastCPU, m) {
  m.impl("deform_conv2d",
         TORCH_FN((deform_conv2d_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
  m.impl("pack_weight",
         TORCH_FN((pack_weight_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
}
TORCH_LIBRARY_IMPL(dcn, AutocastCUDA, m) {
  m.impl("deform_conv2d",
         TORCH_FN((deform_conv2d_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
  m.impl("pack_weight",
         TORCH_FN((pack_weight_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
}

}  // namespace
}  // namespace dcn
