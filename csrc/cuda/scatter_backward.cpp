// NOTE [scattered backward]
//
//   beside one another: the image by blocks of channels; in 32 bits, the gradient transposed by
//           tiles; zeros for the sums of the input gradient; the weight, packed
//   one kernel for the gradients of input (sums in f32, by atomics), weight (sums by CTA), offset
//           and mask
//   the weight's sums, added; in 16 bits the input's sums to their dtype and layout
//
// One stream, where kernels that need nothing of one another start beside one another
// (griddepcontrol); the bias gradient has its own.
#include "scatter_backward.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/scatter/scatter_params.h"
#include "layout.h"
#include "padded_nhwc.h"
#include "stream_fork.h"
#include "workspace.h"

namespace dcn {
namespace {

using at::Tensor;
constexpr auto kContiguous = at::MemoryFormat::Contiguous;

class Backward {
 public:
  Backward(const FusedCall& call, const Tensor& grad, const FusedGradients& gradients)
      : call_(call),
        gradients_(gradients),
        plan_(call.plan.fused_backward.scatter),
        math_(call.plan.fused_backward.math),
        shape_(call.shape),
        layout_(fused_layout(shape_, element_bytes(math_))),
        grad_layout_(fused_layout(transposed(shape_), element_bytes(math_))),
        by_blocks_(element_bytes(math_) == 2),
        image_(plan_.plane_bytes > 0 ? to_nhwc(call.input) : Tensor()),  // where it is read
        grad_(padded_nhwc(grad, transposed(shape_), grad_layout_)) {
    const int64_t planes = aligned_part(plan_.plane_bytes);
    const int64_t packed = aligned_part(plan_.packed_bytes);
    const int64_t turned = aligned_part(plan_.transposed_bytes);
    workspace_ = at::empty({planes + packed + turned + plan_.partial_bytes},
                           call.input.options().dtype(at::kByte).memory_format(kContiguous));
    planes_ = static_cast<uint8_t*>(workspace_.mutable_data_ptr());
    packed_ = planes_ + planes;
    transposed_ = packed_ + packed;
    partial_ = transposed_ + turned;
    if (!gradients.input.defined()) return;
    sums_are_gradient_ = !by_blocks_ && !layout_.padded() &&
                         gradients.input.is_contiguous(at::MemoryFormat::ChannelsLast);
    sums_ = sums_are_gradient_
                ? gradients.input
                : at::empty({plan_.sum_bytes / static_cast<int64_t>(sizeof(float))},
                            call.input.options().dtype(at::kFloat).memory_format(kContiguous));
  }

  void run(const BiasGradient* bias) const {
    const auto caller = c10::cuda::getCurrentCUDAStream();
    const ScatterParams params = this->params();
    const StreamFork beside(caller, bias ? 2 : 1);
    if (bias) bias->run(beside.lane(1));
    bool beside_previous = false;  // kernel, once there is one
    if (plan_.plane_bytes > 0) {
      planes(caller);
      beside_previous = true;
    }
    if (plan_.transposed_bytes > 0) {
      C10_CUDA_CHECK(launch_transpose_grad(params, math_, caller, beside_previous));
    }
    if (sums_.defined()) {
      C10_CUDA_CHECK(launch_clear_sums(params.grad_input, plan_.sum_bytes, call_.multiprocessors,
                                       caller, beside_previous));
      beside_previous = true;
    }
    if (plan_.columns) pack(caller, beside_previous);
    C10_CUDA_CHECK(launch_scatter(params, math_, caller));
    C10_CUDA_CHECK(launch_scatter_results(params, math_, caller));
    if (sums_.defined() && !by_blocks_ && !sums_are_gradient_) store_sums();
  }

 private:
  static void* data(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }

  void planes(cudaStream_t stream) const {
    ImagePlanesParams params{};
    params.shape = shape_;
    params.layout = layout_;
    params.element_bytes = element_bytes(math_);
    params.image = image_.const_data_ptr();
    params.planes = planes_;
    C10_CUDA_CHECK(launch_image_planes(params, stream));
  }

  void pack(cudaStream_t stream, bool beside_previous) const {
    PackScatterWeightParams params{};
    params.shape = shape_;
    params.layout = layout_;
    params.grad_layout = grad_layout_;
    params.math = math_;
    params.weight = call_.weight.const_data_ptr();
    params.stride_k = call_.weight.stride(0);
    params.stride_c = call_.weight.stride(1);
    params.stride_r = call_.weight.stride(2);
    params.stride_s = call_.weight.stride(3);
    params.packed = packed_;
    C10_CUDA_CHECK(launch_pack_scatter_weight(params, stream, beside_previous));
  }

  ScatterParams params() const {
    ScatterParams params{};
    params.shape = shape_;
    params.layout = layout_;
    params.grad_layout = grad_layout_;
    params.image = planes_;
    params.grad = grad_.const_data_ptr();
    params.weight = packed_;
    params.offset = call_.offset;
    params.mask = call_.mask;
    params.ctas = plan_.ctas;
    params.grad_input = static_cast<float*>(data(sums_));
    params.grad_offset = data(gradients_.offset);
    params.grad_mask = data(gradients_.mask);
    if (by_blocks_ && sums_.defined()) {
      const Tensor& input = gradients_.input;
      params.stored_input = input.mutable_data_ptr();
      params.input_n = input.stride(0);
      params.input_c = input.stride(1);
      params.input_h = input.stride(2);
      params.input_w = input.stride(3);
    }
    if (plan_.partial_bytes == 0) return params;
    const Tensor& weight = gradients_.weight;
    params.transposed_grad = transposed_;
    params.partial = reinterpret_cast<float*>(partial_);
    params.grad_weight = weight.mutable_data_ptr();
    params.stride_k = weight.stride(0);
    params.stride_c = weight.stride(1);
    params.stride_r = weight.stride(2);
    params.stride_s = weight.stride(3);
    return params;
  }

  // In 32 bits.
  void store_sums() const {
    const Tensor sums = sums_.view({shape_.N, shape_.H, shape_.W, layout_.channels});
    if (!layout_.padded()) {
      store_nhwc(sums.permute({0, 3, 1, 2}), gradients_.input);
      return;
    }
    const Tensor segments = sums.unflatten(3, {-1, layout_.padded_segment});
    gradients_.input.permute({0, 2, 3, 1})
        .unflatten(3, {-1, layout_.segment})
        .copy_(segments.narrow(4, 0, layout_.segment));
  }

  const FusedCall& call_;
  const FusedGradients& gradients_;
  const ScatterPlan& plan_;
  const FusedMath math_;
  const ConvShape& shape_;
  const FusedLayout layout_, grad_layout_;
  const bool by_blocks_;  // the sums
  const Tensor image_;    // NHWC, or null
  const Tensor grad_;     // NHWC, padded
  Tensor workspace_;
  uint8_t *planes_, *packed_, *transposed_, *partial_;
  Tensor sums_;  // of the input gradient, or the gradient itself
  bool sums_are_gradient_ = false;
};

}  // namespace

void scatter_backward(const FusedCall& call, const Tensor& grad, const FusedGradients& gradients,
                      const BiasGradient* bias) {
  Backward(call, grad, gradients).run(bias);
}

}  // namespace dcn
