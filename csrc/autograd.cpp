// The autograd node of deform_conv2d, written the way PyTorch's generated code writes its own: a
// fifth of the call overhead of a node registered from Python, and LibTorch users and functorch get
// the same gradients.
//
// Saved for backward are the inputs alone and the forced plan, if any: the engine runs backward on
// threads of its own, where a thread-local would be lost. Backward calls the registered operator,
// which computes only what `output_mask` asks for, and has a node of its own for second
// derivatives.
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <mutex>

#include "double_backward.h"
#include "ops.h"
#include "plan_scope.h"

namespace dcn {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Torch 2.11 holds nodes by shared_ptr with a deleter of its own, newer ones by intrusive_ptr; the
// type of an Edge's node tells. The deleter is found by argument, since newer ones have none.
template <typename NodeType, typename... Args>
auto make_node(Args&&... args) {
  using NodePointer = decltype(torch::autograd::Edge::function);
  if constexpr (std::is_same_v<NodePointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<NodeType>(new NodeType(std::forward<Args>(args)...),
                                     [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<NodeType>(std::forward<Args>(args)...);
  }
}

SavedVariable save(const OptionalTensor& tensor) {
  return SavedVariable(tensor.has_value() ? *tensor : Tensor(), /*is_output=*/false);
}

OptionalTensor unpack_optional(const SavedVariable& saved) {
  const Tensor tensor = saved.unpack();
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

struct DeformConv2dBackward : public torch::autograd::Node {
  SavedVariable input, weight, offset, mask;
  CallOptions options;
  std::optional<ForcedPlan> forced_plan;

  std::string name() const override { return "DeformConv2dBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable* saved : {&input, &weight, &offset, &mask}) saved->reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_INTERNAL_ASSERT(grads.size() == 1);
    if (!grads[0].defined()) return variable_list(5);
    std::array<bool, 5> output_mask{};
    for (size_t i = 0; i < output_mask.size(); ++i) output_mask[i] = task_should_compute_output(i);
    const ForcedPlanScope scope(forced_plan);
    auto [grad_input, grad_weight, grad_offset, grad_mask, grad_bias] = backward_operator().call(
        grads[0], input.unpack(), weight.unpack(), offset.unpack(), unpack_optional(mask),
        options.stride, options.padding, options.dilation, options.groups, options.offset_groups,
        output_mask, options.im2col_step);
    variable_list result{grad_input, grad_weight, grad_offset, grad_mask, grad_bias};
    for (size_t i = 0; i < output_mask.size(); ++i) {
      if (!output_mask[i]) result[i] = Tensor();
    }
    return result;
  }
};

// The node of a backward pass run with create_graph=True.
struct DeformConv2dBackwardBackward : public torch::autograd::Node {
  SavedVariable grad, input, weight, offset, mask;
  CallOptions options;
  std::array<bool, 5> output_mask{};
  std::optional<ForcedPlan> forced_plan;

  std::string name() const override { return "DeformConv2dBackwardBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable* saved : {&grad, &input, &weight, &offset, &mask}) saved->reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::array<Tensor, 5> incoming;
    TORCH_INTERNAL_ASSERT(grads.size() == incoming.size());
    std::array<bool, 5> wanted{};
    for (size_t i = 0; i < incoming.size(); ++i) {
      // What the first pass did not compute is an empty tensor, on which nothing depends.
      if (output_mask[i]) incoming[i] = grads[i];
      wanted[i] = task_should_compute_output(i);
    }
    const ForcedPlanScope scope(forced_plan);
    const auto result = double_backward({grad.unpack(), input.unpack(), weight.unpack(),
                                         offset.unpack(), unpack_optional(mask), options},
                                        incoming, wanted);
    return variable_list(result.begin(), result.end());
  }
};

void refuse_forward_mode(std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(tensor),
                                "deform_conv2d: forward-mode automatic differentiation is not "
                                "supported; use reverse mode (backward, torch.func.grad, vjp)");
  }
}

Tensor deform_conv2d_autograd(c10::DispatchKeySet keys, const Tensor& input, const Tensor& weight,
                              const Tensor& offset, const OptionalTensor& mask,
                              const OptionalTensor& bias, c10::SymIntArrayRef stride,
                              c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                              c10::SymInt groups, c10::SymInt offset_groups, int64_t im2col_step,
                              const OptionalTensor& packed_weight) {
  refuse_forward_mode({input, weight, offset, mask.value_or(Tensor()), bias.value_or(Tensor())});
  decltype(make_node<DeformConv2dBackward>()) node;
  if (torch::autograd::compute_requires_grad(input, weight, offset, mask, bias)) {
    node = make_node<DeformConv2dBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(input, weight, offset, mask, bias));
    node->input = save(input);
    node->weight = save(weight);
    node->offset = save(offset);
    node->mask = save(mask);
    node->options = {stride.vec(), padding.vec(), dilation.vec(),
                     groups,       offset_groups, im2col_step};
    node->forced_plan = forced_plan();
  }
  Tensor output;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    output = forward_operator().redispatch(keys & c10::after_autograd_keyset, input, weight, offset,
                                           mask, bias, stride, padding, dilation, groups,
                                           offset_groups, im2col_step, packed_weight);
  }
  if (node) torch::autograd::set_history(output, node);
  return output;
}

Gradients deform_conv2d_backward_autograd(c10::DispatchKeySet keys, const Tensor& grad,
                                          const Tensor& input, const Tensor& weight,
                                          const Tensor& offset, const OptionalTensor& mask,
                                          c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                                          c10::SymIntArrayRef dilation, c10::SymInt groups,
                                          c10::SymInt offset_groups,
                                          std::array<bool, 5> output_mask, int64_t im2col_step) {
  refuse_forward_mode({grad, input, weight, offset, mask.value_or(Tensor())});
  decltype(make_node<DeformConv2dBackwardBackward>()) node;
  if (torch::autograd::compute_requires_grad(grad, input, weight, offset, mask)) {
    node = make_node<DeformConv2dBackwardBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(grad, input, weight, offset, mask));
    node->grad = save(grad);
    node->input = save(input);
    node->weight = save(weight);
    node->offset = save(offset);
    node->mask = save(mask);
    node->options = {stride.vec(), padding.vec(), dilation.vec(),
                     groups,       offset_groups, im2col_step};
    node->output_mask = output_mask;
    node->forced_plan = forced_plan();
  }
  Gradients gradients;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    gradients = backward_operator().redispatch(keys & c10::after_autograd_keyset, grad, input,
                                               weight, offset, mask, stride, padding, dilation,
                                               groups, offset_groups, output_mask, im2col_step);
  }
  if (node) {
    std::apply([&](auto&... gradient) { (torch::autograd::set_history(gradient, node), ...); },
               gradients);
  }
  return gradients;
}

TORCH_LIBRARY_IMPL(dcn, Autograd, m) {
  m.impl("deform_conv2d", TORCH_FN(deform_conv2d_autograd));
  m.impl("deform_conv2d_backward", TORCH_FN(deform_conv2d_backward_autograd));
  // Gradients belong to the weight that goes beside the packed one.
  m.impl("pack_weight", torch::CppFunction::makeFallthrough());
}

}  // namespace
}  // namespace dcn
