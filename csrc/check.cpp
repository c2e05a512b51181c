#include "check.h"

#include <c10/util/Exception.h>

#include <array>
#include <limits>

namespace dcn {
namespace {

using at::Tensor;

void check_dtype(const char* name, const Tensor& tensor, at::ScalarType expected) {
  TORCH_CHECK(tensor.scalar_type() == expected, "deform_conv2d: expected ", name, " of dtype ",
              expected, " like the input, but got ", tensor.scalar_type());
}

// Offset and mask may stay in f32 beside a 16-bit input: their precision is that of the
// coordinates.
void check_sampling_dtype(const char* name, const Tensor& tensor, at::ScalarType input_dtype) {
  const bool narrow = input_dtype == at::kHalf || input_dtype == at::kBFloat16;
  TORCH_CHECK(tensor.scalar_type() == input_dtype || (narrow && tensor.scalar_type() == at::kFloat),
              "deform_conv2d: expected ", name, " of dtype ", input_dtype, " like the input",
              narrow ? " or Float" : "", ", but got ", tensor.scalar_type());
}

void check_tensor(const char* name, const Tensor& tensor, int64_t dim, at::Device device) {
  TORCH_CHECK(tensor.defined(), "deform_conv2d: expected ", name, " to be a tensor, but got None");
  TORCH_CHECK(tensor.dim() == dim, "deform_conv2d: expected ", name, " with ", dim,
              " dimensions, but got ", tensor.dim(), " dimensions, shape ", tensor.sizes());
  TORCH_CHECK(tensor.device() == device,
              "deform_conv2d: expected all tensors on the input's device ", device, ", but ", name,
              " is on ", tensor.device());
}

void check_dtypes(const DeformConvCall& call, const std::optional<Tensor>& bias) {
  const at::ScalarType dtype = call.input.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16,
      "deform_conv2d: expected an input of dtype Double, Float, Half or BFloat16, but got ", dtype);
  check_dtype("weight", call.weight, dtype);
  check_sampling_dtype("offset", call.offset, dtype);
  if (call.has_mask()) check_sampling_dtype("mask", *call.mask, dtype);
  if (bias.has_value()) check_dtype("bias", *bias, dtype);
}

void check_numbers(const DeformConvCall& call) {
  TORCH_CHECK(call.stride.size() == 2 && call.padding.size() == 2 && call.dilation.size() == 2,
              "deform_conv2d: expected stride, padding and dilation of 2 values each, but got ",
              call.stride, ", ", call.padding, " and ", call.dilation);
  TORCH_CHECK(call.weight.size(2) > 0 && call.weight.size(3) > 0,
              "deform_conv2d: expected a positive kernel size, but got weight_h: ",
              call.weight.size(2), " weight_w: ", call.weight.size(3));
  TORCH_CHECK(call.stride[0] > 0 && call.stride[1] > 0,
              "deform_conv2d: expected positive strides, but got stride_h: ", call.stride[0],
              " stride_w: ", call.stride[1]);
  TORCH_CHECK(call.padding[0] >= 0 && call.padding[1] >= 0,
              "deform_conv2d: expected non-negative padding, but got pad_h: ", call.padding[0],
              " pad_w: ", call.padding[1]);
  TORCH_CHECK(call.dilation[0] > 0 && call.dilation[1] > 0,
              "deform_conv2d: expected positive dilations, but got dilation_h: ", call.dilation[0],
              " dilation_w: ", call.dilation[1]);
  TORCH_CHECK(call.groups > 0, "deform_conv2d: expected a positive number of groups, but got ",
              call.groups);
  TORCH_CHECK(call.offset_groups > 0,
              "deform_conv2d: expected a positive number of offset groups, but got ",
              call.offset_groups, ": the shape of the offset tensor at dimension 1 is not valid. ",
              "It should be a multiple of 2 * weight.size[2] * weight.size[3]");
  TORCH_CHECK(call.im2col_step >= 0, "deform_conv2d: expected a non-negative im2col_step, but got ",
              call.im2col_step);
}

// The values of one axis must survive the narrowing to 32 bits before a formula multiplies them.
int32_t narrow(const char* name, int64_t value) {
  TORCH_CHECK(value <= std::numeric_limits<int32_t>::max(), "deform_conv2d: ", name, " of ", value,
              " is too large: sizes are limited to 2^31 - 1");
  return static_cast<int32_t>(value);
}

ConvShape make_shape(const DeformConvCall& call) {
  ConvShape shape;
  shape.N = narrow("a batch", call.input.size(0));
  shape.C = narrow("a channel count", call.input.size(1));
  shape.H = narrow("an input height", call.input.size(2));
  shape.W = narrow("an input width", call.input.size(3));
  shape.K = narrow("an output channel count", call.weight.size(0));
  shape.R = narrow("a kernel height", call.weight.size(2));
  shape.S = narrow("a kernel width", call.weight.size(3));
  shape.G = narrow("a number of groups", call.groups);
  shape.D = narrow("a number of offset groups", call.offset_groups);
  shape.stride_h = narrow("a stride", call.stride[0]);
  shape.stride_w = narrow("a stride", call.stride[1]);
  shape.pad_h = narrow("a padding", call.padding[0]);
  shape.pad_w = narrow("a padding", call.padding[1]);
  shape.dil_h = narrow("a dilation", call.dilation[0]);
  shape.dil_w = narrow("a dilation", call.dilation[1]);
  const int64_t p = output_size(shape.H, shape.R, shape.stride_h, shape.pad_h, shape.dil_h);
  const int64_t q = output_size(shape.W, shape.S, shape.stride_w, shape.pad_w, shape.dil_w);
  TORCH_CHECK(p > 0 && q > 0, "deform_conv2d: Calculated output size too small - out_h: ", p,
              " out_w: ", q, " for an input of ", shape.H, " x ", shape.W, ", a kernel of ",
              shape.R, " x ", shape.S, ", padding ", call.padding, ", dilation ", call.dilation);
  shape.P = narrow("an output height", p);
  shape.Q = narrow("an output width", q);
  return shape;
}

void check_channels(const DeformConvCall& call, const ConvShape& shape) {
  TORCH_CHECK(shape.C > 0 && shape.K > 0,
              "deform_conv2d: expected at least one input and one output channel, but got ",
              shape.C, " and ", shape.K);
  TORCH_CHECK(shape.C % shape.G == 0 && shape.K % shape.G == 0, "deform_conv2d: input channels (",
              shape.C, ") and output channels (", shape.K, ") must be divisible by groups (",
              shape.G, ")");
  TORCH_CHECK(shape.C % shape.D == 0, "deform_conv2d: input channels (", shape.C,
              ") must be divisible by offset groups (", shape.D, ")");
  TORCH_CHECK(call.weight.size(1) == shape.channels_per_group(),
              "deform_conv2d: expected weight of shape [K, C/G, R, S] = [", shape.K, ", ",
              shape.channels_per_group(), ", ", shape.R, ", ", shape.S, "], but got ",
              call.weight.sizes());
}

// Offset and mask have one map per coordinate, tap and offset group, at the output's size.
void check_sampling_size(const char* name, const char* formula, const Tensor& tensor, int64_t maps,
                         const ConvShape& shape) {
  const std::array<int64_t, 4> expected{shape.N, maps, shape.P, shape.Q};
  if (tensor.sizes() == at::IntArrayRef(expected)) return;
  std::string phrase;
  if (tensor.size(0) != shape.N) {
    phrase = c10::str(" (invalid batch size of ", name, ")");
  } else if (tensor.size(1) != maps) {
    phrase = c10::str(" (", name, ".shape[1] is not valid: got: ", tensor.size(1),
                      " expected: ", maps, ")");
  } else {
    phrase = c10::str(" (", name, " output dims: (", tensor.size(2), ", ", tensor.size(3),
                      ") - computed output dims: (", shape.P, ", ", shape.Q, "))");
  }
  TORCH_CHECK(false, "deform_conv2d: expected ", name, " of shape ", formula, " = ",
              at::IntArrayRef(expected), ", but got ", tensor.sizes(), phrase);
}

ConvShape check_call(const DeformConvCall& call, const std::optional<Tensor>& bias) {
  TORCH_CHECK(call.input.defined(), "deform_conv2d: expected input to be a tensor, but got None");
  const at::Device device = call.input.device();
  check_tensor("input", call.input, 4, device);
  check_tensor("weight", call.weight, 4, device);
  check_tensor("offset", call.offset, 4, device);
  if (call.has_mask()) check_tensor("mask", *call.mask, 4, device);
  if (bias.has_value()) check_tensor("bias", *bias, 1, device);
  check_dtypes(call, bias);
  check_numbers(call);
  const ConvShape shape = make_shape(call);
  check_channels(call, shape);
  const int64_t samples = int64_t{shape.D} * shape.taps();
  check_sampling_size("offset", "[N, 2*D*R*S, P, Q]", call.offset, 2 * samples, shape);
  if (call.has_mask()) {
    check_sampling_size("mask", "[N, D*R*S, P, Q]", *call.mask, samples, shape);
  }
  if (bias.has_value()) {
    TORCH_CHECK(bias->size(0) == shape.K, "deform_conv2d: expected bias of shape [K] = [", shape.K,
                "], but got ", bias->sizes());
  }
  TORCH_CHECK(shape.fits_int32(),
              "deform_conv2d: one image of the input, output or offset, or the weight, has 2^31 or "
              "more elements, or spans 2^24 or more pixels along an axis: input ",
              call.input.sizes(), ", weight ", call.weight.sizes(), ", offset ",
              call.offset.sizes());
  return shape;
}

}  // namespace

ConvShape check_forward(const DeformConvCall& call, const std::optional<Tensor>& bias) {
  const bool has_bias = bias.has_value() && bias->defined();
  return check_call(call, has_bias ? bias : std::nullopt);
}

ConvShape check_backward(const DeformConvCall& call, const Tensor& grad) {
  const ConvShape shape = check_call(call, std::nullopt);
  check_tensor("grad", grad, 4, call.input.device());
  check_dtype("grad", grad, call.input.scalar_type());
  const std::array<int64_t, 4> expected{shape.N, shape.K, shape.P, shape.Q};
  TORCH_CHECK(grad.sizes() == at::IntArrayRef(expected),
              "deform_conv2d: expected grad of shape [N, K, P, Q] = ", at::IntArrayRef(expected),
              ", but got ", grad.sizes());
  return shape;
}

ConvShape check_pack(const Tensor& weight, int64_t groups, int64_t offset_groups) {
  const at::ScalarType dtype = weight.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16,
      "pack_weight: expected a weight of dtype Double, Float, Half or BFloat16, but got ", dtype);
  TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0,
              "pack_weight: expected a weight of shape [K, C/G, R, S] without zero sizes, but got ",
              weight.sizes());
  TORCH_CHECK(weight.numel() <= std::numeric_limits<int32_t>::max(),
              "pack_weight: the weight has 2^31 or more elements: ", weight.sizes());
  TORCH_CHECK(groups > 0 && weight.size(0) % groups == 0, "pack_weight: output channels (",
              weight.size(0), ") must be divisible by groups (", groups, ")");
  const int64_t channels = groups * weight.size(1);
  TORCH_CHECK(offset_groups > 0 && channels % offset_groups == 0, "pack_weight: input channels (",
              channels, ") must be divisible by offset groups (", offset_groups, ")");
  ConvShape shape;
  shape.N = shape.P = shape.Q = 1;
  shape.C = static_cast<int32_t>(channels);
  shape.K = static_cast<int32_t>(weight.size(0));
  shape.H = shape.R = static_cast<int32_t>(weight.size(2));
  shape.W = shape.S = static_cast<int32_t>(weight.size(3));
  shape.G = static_cast<int32_t>(groups);
  shape.D = static_cast<int32_t>(offset_groups);
  return shape;
}

}  // namespace dcn
