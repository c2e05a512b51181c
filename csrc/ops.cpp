// The schemas. Arguments are only ever appended, with defaults, because schemas are serialised with
// exported models.
#include "ops.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "deform_conv2d.h"

TORCH_LIBRARY(dcn, m) {
  m.def(
      "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, "
      "SymInt offset_groups, int im2col_step=0, Tensor? packed_weight=None) -> Tensor");
  m.def(
      "deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, "
      "Tensor? mask, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, "
      "SymInt offset_groups, bool[5] output_mask, int im2col_step=0) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("pack_weight(Tensor weight, SymInt groups, SymInt offset_groups) -> Tensor");
}

namespace dcn {

const c10::TypedOperatorHandle<ForwardSignature>& forward_operator() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dcn::deform_conv2d", "")
                                 .typed<ForwardSignature>();
  return handle;
}

const c10::TypedOperatorHandle<BackwardSignature>& backward_operator() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dcn::deform_conv2d_backward", "")
                                 .typed<BackwardSignature>();
  return handle;
}

const c10::TypedOperatorHandle<PackSignature>& pack_operator() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("dcn::pack_weight", "").typed<PackSignature>();
  return handle;
}

Tensor or_empty(const Tensor& gradient, const Tensor& like) {
  if (gradient.defined()) return gradient;
  return at::empty({0}, like.options().memory_format(std::nullopt));
}

at::Tensor deform_conv2d(const at::Tensor& input, const at::Tensor& weight,
                         const at::Tensor& offset, const std::optional<at::Tensor>& mask,
                         const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
                         at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && offset.dim() == 4,
              "deform_conv2d: expected input, weight and offset with 4 dimensions, but got ",
              input.dim(), ", ", weight.dim(), " and ", offset.dim());
  const int64_t taps = weight.size(2) * weight.size(3);
  TORCH_CHECK(weight.numel() > 0, "deform_conv2d: expected a weight with elements, but got ",
              weight.sizes());
  return forward_operator().call(
      input, weight, offset, mask, bias, c10::fromIntArrayRefSlow(stride),
      c10::fromIntArrayRefSlow(padding), c10::fromIntArrayRefSlow(dilation),
      input.size(1) / weight.size(1), offset.size(1) / (2 * taps), 0, std::nullopt);
}

}  // namespace dcn
