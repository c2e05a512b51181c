// dcn for C++: deformable convolution with gradients, for programs that link libdcn and LibTorch.
//
//   find_package(dcn REQUIRED)
//   target_link_libraries(program dcn::dcn)
//
//   #include <dcn/deform_conv2d.h>
//   at::Tensor out = dcn::deform_conv2d(input, weight, offset, mask, bias, {1, 1}, {1, 1}, {1, 1});
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dcn {

// Modulated deformable convolution (Dai et al. 2017, Zhu et al. 2019).
//   input  [N, C, H, W]           f64, f32, f16 or bf16
//   weight [K, C/groups, R, S]    the input's dtype
//   offset [N, 2*D*R*S, P, Q]     in pixels, y before x; may be f32 beside a 16-bit input
//   mask   [N, D*R*S, P, Q]       likewise; or none, which is version 1
//   bias   [K]                    or none
// Returns [N, K, P, Q] in the input's dtype and memory format. The number of convolution groups and
// of offset groups D follow from the shapes. Throws c10::Error with the values found and expected.
at::Tensor deform_conv2d(const at::Tensor& input, const at::Tensor& weight,
                         const at::Tensor& offset, const std::optional<at::Tensor>& mask = {},
                         const std::optional<at::Tensor>& bias = {},
                         at::IntArrayRef stride = {1, 1}, at::IntArrayRef padding = {0, 0},
                         at::IntArrayRef dilation = {1, 1});

}  // namespace dcn
