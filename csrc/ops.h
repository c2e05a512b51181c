// Typed handles to the registered operators: how C++ calls them through the dispatcher.
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
                                c10::SymInt offset_groups, int64_t im2col_step,
                                const OptionalTensor& packed_weight);

using BackwardSignature = Gradients(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                    const Tensor& offset, const OptionalTensor& mask,
                                    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                                    c10::SymIntArrayRef dilation, c10::SymInt groups,
                                    c10::SymInt offset_groups, std::array<bool, 5> output_mask,
                                    int64_t im2col_step);

// The weight in the order in which a kernel reads it, for `packed_weight` of forward calls with
// this weight and these numbers of groups, wherever their arithmetic is the one it was packed for.
using PackSignature = Tensor(const Tensor& weight, c10::SymInt groups, c10::SymInt offset_groups);

const c10::TypedOperatorHandle<ForwardSignature>& forward_operator();
const c10::TypedOperatorHandle<BackwardSignature>& backward_operator();
const c10::TypedOperatorHandle<PackSignature>& pack_operator();

// The gradient, or where it was not asked for an empty tensor of its own, since the outputs of an
// operator must not alias. Its dtype and device are those of `like`.
Tensor or_empty(const Tensor& gradient, const Tensor& like);

}  // namespace dcn
