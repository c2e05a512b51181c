// Typed handles to the two registered operators: how C++ calls them through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <optional>
#include <tuple>

namespace dcn {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Gradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // input weight offset mask bias

using ForwardSignature = Tensor(const Tensor& input, const Tensor& weight, const Tensor& offset,
                                const OptionalTensor& mask, const OptionalTensor& bias,
                                c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                                c10::SymIntArrayRef dilation, c10::SymInt groups,
                                c10::SymInt offset_groups, int64_t im2col_step);

using BackwardSignature = Gradients(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                    const Tensor& offset, const OptionalTensor& mask,
                                    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                                    c10::SymIntArrayRef dilation, c10::SymInt groups,
                                    c10::SymInt offset_groups, std::array<bool, 5> output_mask,
                                    int64_t im2col_step);

const c10::TypedOperatorHandle<ForwardSignature>& forward_operator();
const c10::TypedOperatorHandle<BackwardSignature>& backward_operator();

// The gradient, or where it was not asked for an empty tensor of its own, since the outputs of an
// operator must not alias. Its dtype and device are those of `like`.
Tensor or_empty(const Tensor& gradient, const Tensor& like);

}  // namespace dcn
