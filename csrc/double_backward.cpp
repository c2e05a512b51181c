// NOTE: second derivatives from calls of the two operators.
//
// Let Phi(g, x, w, o, m) = <g, deform_conv2d(x, w, o, m)>. It is linear in the gradient g, the
// input x, the weight w and the mask m. The backward operator gives its derivatives by x, w, o, m
// (and by the bias, the sum of g). With v the gradients that arrive for these, what must be
// differentiated is
//
//   Phi(g, v_x, w, o, m) + Phi(g, x, v_w, o, m) + Phi(g, x, w, o, v_m)
//     + <v_o, dPhi/do> + <v_b, sum of g>.
//
// The offset term becomes Phi as well. Between four pixels a sample is linear along y, so its
// derivative is the difference of two samples on the edges of the cell,
//
//   d sample(y, x) / dy = sample(floor(y) + 1, x) - sample(floor(y), x),
//
// and likewise along x. So <v_o, dPhi/do> is the sum over both axes and both edges of
// +-Phi(g, x, w, offsets moved to the edge, m * v_o along the axis). An edge does not move with the
// offset along its own axis; along the other one it does, which yields d2/dydx, the only second
// derivative of a bilinear sample that is not zero. A sample outside the image stays where it is:
// both edges then give the same, and its derivatives are 0 (or NaN for a NaN position).
//
// Each Phi costs a call of deform_conv2d (its derivative by g) and one of the backward operator.
#include "double_backward.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace dcn {
namespace {

// Of grad, input, weight, offset and mask.
using Derivatives = std::array<Tensor, 5>;
enum : size_t { kGrad, kInput, kWeight, kOffset, kMask };

// The derivatives of Phi, undefined where not wanted.
Derivatives derivatives_of_phi(const BackwardArguments& phi, const std::array<bool, 5>& wanted) {
  const CallOptions& options = phi.options;
  Derivatives result;
  if (wanted[kGrad]) {
    result[kGrad] = forward_operator().call(
        phi.input, phi.weight, phi.offset, phi.mask, std::nullopt, options.stride, options.padding,
        options.dilation, options.groups, options.offset_groups, options.im2col_step, std::nullopt);
  }
  const std::array<bool, 5> output_mask{wanted[kInput], wanted[kWeight], wanted[kOffset],
                                        wanted[kMask], /*bias=*/false};
  if (std::count(output_mask.begin(), output_mask.end(), true) == 0) return result;
  auto [input, weight, offset, mask, bias] = backward_operator().call(
      phi.grad, phi.input, phi.weight, phi.offset, phi.mask, options.stride, options.padding,
      options.dilation, options.groups, options.offset_groups, output_mask, options.im2col_step);
  const std::array<Tensor, 4> by_argument{input, weight, offset, mask};
  for (size_t i = 0; i < by_argument.size(); ++i) {
    if (output_mask[i]) result[i + 1] = by_argument[i];
  }
  return result;
}

void add_to(Tensor& sum, const Tensor& term) {
  if (term.defined()) sum = sum.defined() ? sum + term : term;
}

void add_to(Derivatives& sum, const Derivatives& terms) {
  for (size_t i = 0; i < sum.size(); ++i) add_to(sum[i], terms[i]);
}

// [N, 2*D*R*S, P, Q] as [N, D*R*S, 2, P, Q]: y and x of every sample.
Tensor per_sample(const Tensor& offset) {
  return offset.reshape_symint(
      {offset.sym_size(0), offset.sym_size(1) / 2, 2, offset.sym_size(2), offset.sym_size(3)});
}

// Where samples with zero offsets lie along an axis (0: y, 1: x): [D*R*S, P, 1] or [D*R*S, 1, Q].
// The values of ConvShape::origin_y and origin_x as a tensor, for sizes that may be symbols.
Tensor origins(const BackwardArguments& call, int64_t axis, const at::TensorOptions& dtype) {
  const auto integers = call.offset.options().dtype(at::kLong);
  const c10::SymInt S = call.weight.sym_size(3), taps = call.weight.sym_size(2) * S;
  const Tensor tap = at::arange(call.offset.sym_size(1) / 2, integers).remainder(taps);
  const Tensor step = axis == 0 ? tap.floor_divide(S) : tap.remainder(S);
  const Tensor pixel = at::arange(call.offset.sym_size(2 + axis), integers);
  const CallOptions& options = call.options;
  const Tensor origin = step.unsqueeze(1) * options.dilation[axis] +
                        (pixel * options.stride[axis] - options.padding[axis]);
  return origin.unsqueeze(axis == 0 ? 2 : 1).to(dtype);
}

// Every sample's cell, in the precision in which positions are computed.
struct Cells {
  std::array<Tensor, 2> offset;      // y, x: [N, D*R*S, P, Q]
  std::array<Tensor, 2> first_edge;  // the offset at which a sample lies on its cell's first edge
  Tensor inside;

  explicit Cells(const BackwardArguments& call) {
    const bool wide = call.offset.scalar_type() == at::kDouble;
    const auto dtype = call.offset.options().dtype(wide ? at::kDouble : at::kFloat);
    for (int64_t axis = 0; axis < 2; ++axis) {
      offset[axis] = per_sample(call.offset).select(2, axis).to(dtype);
      const Tensor origin = origins(call, axis, dtype);
      const Tensor position = offset[axis].detach() + origin;
      first_edge[axis] = position.floor() - origin;
      const Tensor within = (position > -1).logical_and(position < call.input.sym_size(2 + axis));
      inside = inside.defined() ? inside.logical_and(within) : within;
    }
  }

  // The offsets [N, 2*D*R*S, P, Q] with every sample inside moved along `axis` to an edge: 0 or 1.
  Tensor moved_to(int64_t axis, int64_t edge) const {
    std::array<Tensor, 2> moved = offset;
    moved[axis] = at::where(inside, first_edge[axis] + edge, offset[axis]);
    return at::stack(moved, 2).flatten(1, 2);
  }
};

// Adds the derivatives of <v_o, dPhi/do>.
void add_offset_term(const BackwardArguments& call, const Tensor& incoming,
                     const std::array<bool, 5>& wanted, Derivatives& sum) {
  const Cells cells(call);
  std::array<Tensor, 2> by_offset;
  for (int64_t axis = 0; axis < 2; ++axis) {
    const int64_t other = 1 - axis;
    for (int64_t edge = 0; edge < 2; ++edge) {
      const Tensor along = per_sample(incoming).select(2, axis);  // [N, D*R*S, P, Q]
      const Tensor factor = edge == 1 ? along : -along;
      BackwardArguments phi = call;
      phi.offset = cells.moved_to(axis, edge);
      phi.mask = call.mask.has_value() ? *call.mask * factor : factor;
      Derivatives terms = derivatives_of_phi(phi, wanted);
      if (wanted[kOffset]) {
        add_to(by_offset[other], per_sample(terms[kOffset]).select(2, other));
        terms[kOffset] = Tensor();
      }
      if (wanted[kMask]) terms[kMask] = terms[kMask] * factor;
      add_to(sum, terms);
    }
  }
  if (wanted[kOffset]) add_to(sum[kOffset], at::stack(by_offset, 2).flatten(1, 2));
}

}  // namespace

std::array<Tensor, 5> double_backward(const BackwardArguments& call,
                                      const std::array<Tensor, 5>& incoming,
                                      const std::array<bool, 5>& wanted) {
  // The first backward pass is not cast either: dtypes are those of the tensors that were saved.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto& [by_input, by_weight, by_offset, by_mask, by_bias] = incoming;
  Derivatives sum;
  // Phi with v in the place of an argument no longer depends on that one.
  const auto add_phi = [&](const BackwardArguments& phi, size_t replaced) {
    std::array<bool, 5> remaining = wanted;
    remaining[replaced] = false;
    add_to(sum, derivatives_of_phi(phi, remaining));
  };
  if (by_input.defined()) {
    BackwardArguments phi = call;
    phi.input = by_input;
    add_phi(phi, kInput);
  }
  if (by_weight.defined()) {
    BackwardArguments phi = call;
    phi.weight = by_weight;
    add_phi(phi, kWeight);
  }
  if (by_mask.defined() && call.mask.has_value()) {
    BackwardArguments phi = call;
    phi.mask = by_mask;
    add_phi(phi, kMask);
  }
  if (by_offset.defined()) add_offset_term(call, by_offset, wanted, sum);
  if (by_bias.defined() && wanted[kGrad]) {
    add_to(sum[kGrad], by_bias.reshape({1, -1, 1, 1}).expand_as(call.grad));
  }
  return sum;
}

}  // namespace dcn
