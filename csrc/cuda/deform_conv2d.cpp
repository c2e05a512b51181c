// The operators on CUDA: guard, check, plan, convert to NHWC where needed, run the planned
// algorithm.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../check.h"
#include "../ops.h"
#include "../plan_scope.h"
#include "bias_gradient.h"
#include "device_info.h"
#include "fused_backward.h"
#include "im2col_gemm.h"
#include "layout.h"

namespace dcn {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

// This is a convolution, so f32 follows the convolution's TF32 switch, whichever of its two
// spellings set it.
bool tf32_allowed() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::CONV) ==
         at::Float32Precision::TF32;
}

SamplingMap sampling_map(const OptionalTensor& tensor) {
  if (!tensor.has_value() || !tensor->defined()) return {};
  return {tensor->const_data_ptr(),
          dtype_of(*tensor),
          tensor->stride(0),
          static_cast<int32_t>(tensor->stride(1)),
          static_cast<int32_t>(tensor->stride(2)),
          static_cast<int32_t>(tensor->stride(3))};
}

// Kernels read offset and mask through their strides. Only where these, in bytes, leave 32 bits
// inside an image is a copy made.
Tensor with_short_strides(const Tensor& tensor) {
  for (int dim = 1; dim < 4; ++dim) {
    const int64_t bytes = tensor.stride(dim) * tensor.element_size();
    if (bytes > std::numeric_limits<int32_t>::max()) return tensor.contiguous();
  }
  return tensor;
}

Plan plan_call(const DeformConvCall& call, const ConvShape& shape, Pass pass,
               std::array<bool, 5> output_mask, const OptionalTensor& packed_weight) {
  PlanRequest request;
  request.shape = shape;
  request.pass = pass;
  request.dtype = dtype_of(call.input);
  request.tf32 = tf32_allowed();
  request.deterministic = at::globalContext().deterministicAlgorithms();
  request.channels_last = call.input.suggest_memory_format() == kChannelsLast;
  request.output_mask = output_mask;
  request.im2col_step = call.im2col_step;
  request.forced = forced_plan();
  request.device = device_info(call.input.device().index());
  Plan plan;
  try {
    plan = make_plan(request);
  } catch (const std::invalid_argument& reason) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "deform_conv2d: ", reason.what());
  }
  if (packed_weight.has_value() && packed_weight->defined() &&
      fused_takes(*packed_weight, shape, plan.fused, call.weight)) {
    plan.workspace_bytes -= plan.fused.packed_bytes;
    plan.fused.packed_bytes = 0;
    plan.fused.prepacked = true;
  }
  record_last_plan(plan);
  return plan;
}

Im2colGemmCall nhwc_call(const DeformConvCall& call, const ConvShape& shape, const Plan& plan,
                         const Tensor& offset, const OptionalTensor& mask) {
  return {shape,
          plan,
          dtype_of(call.input),
          tf32_allowed(),
          to_nhwc(call.input),
          to_nhwc(call.weight),
          sampling_map(offset),
          sampling_map(mask)};
}

OptionalTensor short_mask(const DeformConvCall& call) {
  return call.has_mask() ? OptionalTensor(with_short_strides(*call.mask)) : std::nullopt;
}

Tensor deform_conv2d_cuda(const Tensor& input, const Tensor& weight, const Tensor& offset,
                          const OptionalTensor& mask, const OptionalTensor& bias,
                          at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                          int64_t groups, int64_t offset_groups, int64_t im2col_step,
                          const OptionalTensor& packed_weight) {
  const DeformConvCall call{input,   weight,   offset, mask,          stride,
                            padding, dilation, groups, offset_groups, im2col_step};
  const ConvShape shape = check_forward(call, bias);
  const c10::cuda::CUDAGuard guard(input.device());
  const Plan plan = plan_call(call, shape, Pass::kForward, {}, packed_weight);
  const Tensor short_offset = with_short_strides(offset);
  const OptionalTensor mask_kept = short_mask(call);
  const bool has_bias = bias.has_value() && bias->defined();
  const OptionalTensor dense_bias = has_bias ? OptionalTensor(bias->contiguous()) : std::nullopt;
  const auto format = input.suggest_memory_format();
  const auto output_in = [&](at::MemoryFormat made) {
    return at::empty({shape.N, shape.K, shape.P, shape.Q}, input.options().memory_format(made));
  };
  if (shape.output_pixels() == 0) return output_in(format);
  switch (plan.algorithm) {
    case Algorithm::kIm2colGemm: {
      const Tensor output = output_in(kChannelsLast);
      im2col_gemm_forward(nhwc_call(call, shape, plan, short_offset, mask_kept), dense_bias,
                          output);
      return from_nhwc(output, input.scalar_type(), format);
    }
    case Algorithm::kFused: {
      const Tensor output = output_in(format);
      fused_forward(
          {shape, plan, device_info(input.device().index()).multiprocessors, input, weight,
           sampling_map(short_offset), sampling_map(mask_kept), packed_weight.value_or(Tensor())},
          dense_bias, output);
      return output;
    }
    default:
      TORCH_INTERNAL_ASSERT(false, "no CUDA forward for ", name_of(plan.algorithm));
  }
}

Tensor pack_weight_cuda(const Tensor& weight, int64_t groups, int64_t offset_groups) {
  PlanRequest request;
  request.shape = check_pack(weight, groups, offset_groups);
  request.dtype = dtype_of(weight);
  request.tf32 = tf32_allowed();
  request.device = device_info(weight.device().index());
  const std::string reason = why_not_packed(request);
  TORCH_CHECK_NOT_IMPLEMENTED(reason.empty(), "pack_weight: ", reason);
  const c10::cuda::CUDAGuard guard(weight.device());
  return fused_pack_weight(request.shape, fused_math(request), weight);
}

Tensor empty_gradient(const Tensor& like, bool wanted) {
  if (!wanted) return Tensor();
  return at::empty(like.sizes(), like.options().memory_format(at::MemoryFormat::Contiguous));
}

// Gradients by im2col_gemm: sums in f32 (f64 for f64) or in fixed point, then the dtype and format
// that the caller is owed. An empty batch has gradients of 0.
FusedGradients im2col_gradients(const DeformConvCall& call, const ConvShape& shape,
                                const Plan& plan, const Tensor& grad_nhwc,
                                std::array<bool, 5> output_mask) {
  const Tensor &input = call.input, &weight = call.weight;
  const auto sum_type = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto sums = input.options().dtype(sum_type);
  Im2colGemmGradients gradients;
  if (output_mask[0]) {
    const auto stored = plan.fixed_point ? input.options() : sums;
    gradients.input = at::empty(input.sizes(), stored.memory_format(kChannelsLast));
    if (!plan.fixed_point) gradients.input.zero_();
  }
  if (output_mask[1]) gradients.weight = at::empty({plan.lanes, shape.K, shape.gemm_k()}, sums);
  gradients.offset = empty_gradient(call.offset, output_mask[2]);
  if (output_mask[3]) gradients.mask = empty_gradient(*call.mask, true);
  if (grad_nhwc.numel() > 0) {
    const Tensor short_offset = with_short_strides(call.offset);
    const OptionalTensor mask_kept = short_mask(call);
    im2col_gemm_backward(nhwc_call(call, shape, plan, short_offset, mask_kept), grad_nhwc,
                         gradients);
  } else if (output_mask[1]) {
    gradients.weight.zero_();
  }
  FusedGradients result;
  if (output_mask[0]) {
    result.input = from_nhwc(gradients.input, input.scalar_type(), input.suggest_memory_format());
  }
  if (output_mask[1]) {
    const Tensor sum = plan.lanes == 1 ? gradients.weight.select(0, 0) : gradients.weight.sum(0);
    const Tensor nhwc = sum.view({shape.K, shape.R, shape.S, shape.channels_per_group()});
    result.weight =
        from_nhwc(nhwc.permute({0, 3, 1, 2}), weight.scalar_type(), weight.suggest_memory_format());
  }
  result.offset = gradients.offset;
  result.mask = gradients.mask;
  return result;
}

FusedGradients fused_gradients(const DeformConvCall& call, const ConvShape& shape, const Plan& plan,
                               const Tensor& grad_nhwc, std::array<bool, 5> output_mask,
                               const BiasGradient* bias) {
  const auto empty_as = [](const Tensor& like) {
    return at::empty(like.sizes(), like.options().memory_format(like.suggest_memory_format()));
  };
  FusedGradients gradients;
  if (output_mask[0]) gradients.input = empty_as(call.input);
  if (output_mask[1]) gradients.weight = empty_as(call.weight);
  gradients.offset = empty_gradient(call.offset, output_mask[2]);
  if (output_mask[3]) gradients.mask = empty_gradient(*call.mask, true);
  const Tensor short_offset = with_short_strides(call.offset);
  const OptionalTensor mask_kept = short_mask(call);
  fused_backward({shape, plan, device_info(call.input.device().index()).multiprocessors, call.input,
                  call.weight, sampling_map(short_offset), sampling_map(mask_kept), Tensor()},
                 grad_nhwc, gradients, bias);
  return gradients;
}

Gradients deform_conv2d_backward_cuda(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                      const Tensor& offset, const OptionalTensor& mask,
                                      at::IntArrayRef stride, at::IntArrayRef padding,
                                      at::IntArrayRef dilation, int64_t groups,
                                      int64_t offset_groups, std::array<bool, 5> output_mask,
                                      int64_t im2col_step) {
  const DeformConvCall call{input,   weight,   offset, mask,          stride,
                            padding, dilation, groups, offset_groups, im2col_step};
  const ConvShape shape = check_backward(call, grad);
  const c10::cuda::CUDAGuard guard(input.device());
  output_mask[3] = output_mask[3] && call.has_mask();
  const Plan plan = plan_call(call, shape, Pass::kBackward, output_mask, std::nullopt);
  const Tensor grad_nhwc = to_nhwc(grad);
  std::optional<BiasGradient> bias;
  if (output_mask[4]) bias.emplace(grad_nhwc, shape);
  const BiasGradient* const bias_wanted = bias.has_value() ? &*bias : nullptr;
  const bool others = output_mask[0] || output_mask[1] || output_mask[2] || output_mask[3];
  FusedGradients gradients;
  if (others && plan.algorithm == Algorithm::kFused) {
    gradients = fused_gradients(call, shape, plan, grad_nhwc, output_mask, bias_wanted);
  } else {
    if (others) gradients = im2col_gradients(call, shape, plan, grad_nhwc, output_mask);
    if (bias_wanted) bias->run(c10::cuda::getCurrentCUDAStream());
  }
  return {or_empty(gradients.input, input), or_empty(gradients.weight, input),
          or_empty(gradients.offset, input), or_empty(gradients.mask, input),
          or_empty(bias_wanted ? bias->gradient() : Tensor(), input)};
}

TORCH_LIBRARY_IMPL(dcn, CUDA, m) {
  m.impl("deform_conv2d", TORCH_FN(deform_conv2d_cuda));
  m.impl("deform_conv2d_backward", TORCH_FN(deform_conv2d_backward_cuda));
  m.impl("pack_weight", TORCH_FN(pack_weight_cuda));
}

}  // namespace
}  // namespace dcn
