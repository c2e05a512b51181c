// The two operators on the CPU: check, plan, bring tensors to the layouts of the kernels, run.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "../check.h"
#include "../ops.h"
#include "../plan_scope.h"
#include "backward.h"
#include "capability.h"
#include "forward.h"
#include "nhwc.h"

namespace dcn {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

void plan_call(const DeformConvCall& call, const ConvShape& shape, Pass pass) {
  PlanRequest request;
  request.shape = shape;
  request.pass = pass;
  request.im2col_step = call.im2col_step;
  request.forced = forced_plan();
  request.device.name = "cpu";
  request.device.multiprocessors = at::get_num_threads();
  try {
    record_last_plan(make_plan(request));
  } catch (const std::invalid_argument& reason) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "deform_conv2d: ", reason.what());
  }
}

template <typename Element>
const Element* data_of(const Tensor& tensor) {
  return static_cast<const Element*>(tensor.const_data_ptr());
}

bool is_wide(const Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble;
}

// The call's tensors in the layouts that the kernels read, kept alive beside the pointers to them.
template <typename Element>
struct PreparedCall {
  Tensor image, weight, offset, mask;
  std::vector<Element> zeros;
  cpu::Problem<Element> problem;

  PreparedCall(const DeformConvCall& call, const ConvShape& shape)
      : image(cpu::to_channels_last(call.input, cpu::kernels<Element>())),
        weight(cpu::to_channels_last(call.weight, cpu::kernels<Element>())),
        offset(call.offset.contiguous()),
        mask(call.has_mask() ? call.mask->contiguous() : Tensor()),
        zeros(shape.C, Element{}) {
    problem.shape = shape;
    problem.kernels = &cpu::kernels<Element>();
    problem.image = data_of<Element>(image);
    problem.offset = {offset.const_data_ptr(), is_wide(offset)};
    if (mask.defined()) problem.mask = {mask.const_data_ptr(), is_wide(mask)};
    problem.zeros = zeros.data();
  }
};

// Calls body(Element{}) with the element type of a dtype.
template <typename Body>
void dispatch(at::ScalarType dtype, const Body& body) {
  switch (dtype) {
    case at::kDouble:
      return body(double{});
    case at::kFloat:
      return body(float{});
    case at::kHalf:
      return body(cpu::Half{});
    case at::kBFloat16:
      return body(cpu::BFloat16{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", dtype);
  }
}

template <typename Element>
cpu::ImageView<Element> image_view(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {static_cast<Element*>(tensor.mutable_data_ptr()), !tensor.is_contiguous()};
}

Tensor deform_conv2d_cpu(const Tensor& input, const Tensor& weight, const Tensor& offset,
                         const OptionalTensor& mask, const OptionalTensor& bias,
                         at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                         int64_t groups, int64_t offset_groups, int64_t im2col_step,
                         const OptionalTensor& /*packed_weight*/) {
  const DeformConvCall call{input,   weight,   offset, mask,          stride,
                            padding, dilation, groups, offset_groups, im2col_step};
  const ConvShape shape = check_forward(call, bias);
  plan_call(call, shape, Pass::kForward);
  Tensor output = at::empty({shape.N, shape.K, shape.P, shape.Q},
                            input.options().memory_format(input.suggest_memory_format()));
  if (output.numel() == 0) return output;
  const bool has_bias = bias.has_value() && bias->defined();
  const Tensor dense_bias = has_bias ? bias->contiguous() : Tensor();
  dispatch(input.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    const PreparedCall<Element> prepared(call, shape);
    cpu::run_forward<Element>({prepared.problem, data_of<Element>(prepared.weight),
                               has_bias ? data_of<Element>(dense_bias) : nullptr,
                               image_view<Element>(output)});
  });
  return output;
}

// Uninitialised where kernels write every value, and zeros where there is nothing to run.
Tensor gradient_of(const Tensor& like, bool wanted, at::MemoryFormat format, bool nothing_to_run) {
  if (!wanted) return Tensor();
  return nothing_to_run ? at::zeros_like(like, {}, format) : at::empty_like(like, {}, format);
}

Gradients deform_conv2d_backward_cpu(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                     const Tensor& offset, const OptionalTensor& mask,
                                     at::IntArrayRef stride, at::IntArrayRef padding,
                                     at::IntArrayRef dilation, int64_t groups,
                                     int64_t offset_groups, std::array<bool, 5> output_mask,
                                     int64_t im2col_step) {
  const DeformConvCall call{input,   weight,   offset, mask,          stride,
                            padding, dilation, groups, offset_groups, im2col_step};
  const ConvShape shape = check_backward(call, grad);
  plan_call(call, shape, Pass::kBackward);
  const bool nothing = grad.numel() == 0;
  const auto dense = at::MemoryFormat::Contiguous;
  const Tensor grad_input =
      gradient_of(input, output_mask[0], input.suggest_memory_format(), nothing);
  const Tensor grad_weight =
      gradient_of(weight, output_mask[1], weight.suggest_memory_format(), nothing);
  const Tensor grad_offset = gradient_of(offset, output_mask[2], dense, nothing);
  const Tensor grad_mask =
      call.has_mask() ? gradient_of(*mask, output_mask[3], dense, nothing) : Tensor();
  const Tensor dense_grad = grad.contiguous(grad.suggest_memory_format());

  const bool any = output_mask[0] || output_mask[1] || output_mask[2] || grad_mask.defined();
  if (any && !nothing) {
    dispatch(input.scalar_type(), [&](auto element) {
      using Element = decltype(element);
      const PreparedCall<Element> prepared(call, shape);
      cpu::BackwardCall<Element> backward{
          prepared.problem, data_of<Element>(prepared.weight), {}, {}, {}, {}, {}};
      backward.grad = {data_of<Element>(dense_grad), !dense_grad.is_contiguous()};
      backward.grad_input = image_view<Element>(grad_input);
      if (grad_weight.defined()) {
        backward.grad_weight = {static_cast<Element*>(grad_weight.mutable_data_ptr()),
                                !grad_weight.is_contiguous()};
      }
      if (grad_offset.defined()) {
        backward.grad_offset = {grad_offset.mutable_data_ptr(), is_wide(grad_offset)};
      }
      if (grad_mask.defined()) {
        backward.grad_mask = {grad_mask.mutable_data_ptr(), is_wide(grad_mask)};
      }
      cpu::run_backward(backward);
    });
  }
  const Tensor grad_bias = output_mask[4] ? dense_grad.sum({0, 2, 3}) : Tensor();
  return {or_empty(grad_input, input), or_empty(grad_weight, input), or_empty(grad_offset, input),
          or_empty(grad_mask, input), or_empty(grad_bias, input)};
}

Tensor pack_weight_cpu(const Tensor& weight, int64_t groups, int64_t offset_groups) {
  PlanRequest request;
  request.shape = check_pack(weight, groups, offset_groups);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "pack_weight: ", why_not_packed(request));
}

TORCH_LIBRARY_IMPL(dcn, CPU, m) {
  m.impl("deform_conv2d", TORCH_FN(deform_conv2d_cpu));
  m.impl("deform_conv2d_backward", TORCH_FN(deform_conv2d_backward_cpu));
  m.impl("pack_weight", TORCH_FN(pack_weight_cpu));
}

}  // namespace
}  // namespace dcn
