// NOTE [fused backward]
//
//   pack    the weight, transposed, for ograd and dgrad; zeroes the counters of dgrad. On some
//           multiprocessors, where wgrad has the others
//   lane 0  for some images at a time: landing lists, then dgrad gathers the input gradient
//   lane 1  ograd: offset and mask gradients
//   lane 2  wgrad: weight gradient; beside pack, of which it needs nothing
//   beside  bias gradient, while the weight is packed; sums of heavy bins, for which the second
//           kernel of dgrad alone waits
//
// Where one kernel makes the gradients of both, they share a lane (owgrad). The lanes fill each
// other's tails; each of the kernels fills the device by itself on a large layer, and nothing fits
// beside its CTAs: what dgrad waits for must not wait for a multiprocessor. Everything is allocated
// on the caller's stream before the fork.
#include "fused_backward.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/dgrad/dgrad_params.h"
#include "kernels/ograd/ograd_params.h"
#include "kernels/owgrad/owgrad_params.h"
#include "kernels/wgrad/wgrad_params.h"
#include "layout.h"
#include "pack_params.h"
#include "padded_nhwc.h"
#include "scatter_backward.h"
#include "stream_fork.h"
#include "workspace.h"

namespace dcn {
namespace {

using at::Tensor;

// A smaller gradient of the output is summed up, for the bias, while the weight is packed; a larger
// one would hold the others up.
constexpr size_t kMostEarlyBytes = size_t{24} << 20;

// Of the multiprocessors, those that pack the weight while the others begin with its gradient.
constexpr int kPackPercent = 18;

// The parts of the workspace.
struct Workspace {
  Tensor buffer;
  uint8_t *packed, *wgrad_partial, *owgrad_parts, *landing, *counters;
  int64_t counter_bytes;  // of all chunks

  Workspace(const FusedBackwardPlan& plan, int64_t chunks, const Tensor& like) {
    const DgradPlan& dgrad = plan.dgrad;
    counter_bytes = chunks * dgrad.irregular_bytes;
    const int64_t parts[] = {plan.packed_bytes, plan.wgrad.partial_bytes, plan.owgrad_part_bytes,
                             dgrad.landing_bytes, counter_bytes};
    int64_t bytes = 0;
    for (const int64_t part : parts) bytes += aligned_part(part);
    buffer = at::empty({bytes},
                       like.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous));
    auto* next = static_cast<uint8_t*>(buffer.mutable_data_ptr());
    uint8_t** const begins[] = {&packed, &wgrad_partial, &owgrad_parts, &landing, &counters};
    for (int i = 0; i < 5; ++i) {
      *begins[i] = next;
      next += aligned_part(parts[i]);
    }
  }
};

class Backward {
 public:
  Backward(const FusedCall& call, const Tensor& grad)
      : call_(call),
        plan_(call.plan.fused_backward),
        shape_(merged(call.shape, plan_.merged)),
        back_(transposed(shape_)),
        layout_(fused_layout(shape_, element_bytes(plan_.math))),
        grad_layout_(fused_layout(back_, element_bytes(plan_.math))),
        image_(padded_nhwc(call.input, shape_, layout_)),
        grad_(padded_nhwc(grad, back_, grad_layout_)),
        workspace_(plan_, chunks(), call.input) {}

  void run(const FusedGradients& gradients, const BiasGradient* bias) {
    const auto caller = c10::cuda::getCurrentCUDAStream();
    const bool with_input = plan_.dgrad.tile >= 0, with_weight = plan_.wgrad.tile >= 0;
    const bool apart = plan_.ograd && !plan_.owgrad;
    const StreamFork beside(caller, 2);
    const bool early = bias && grad_.nbytes() <= kMostEarlyBytes, late = bias && !early;
    if (early) bias->run(beside.lane(1));
    const bool wgrad_first = with_weight && !plan_.owgrad && plan_.packed_bytes > 0;
    const StreamFork weights(caller, wgrad_first ? 2 : 1);
    if (plan_.packed_bytes > 0) pack(caller, wgrad_first);
    if (wgrad_first) weight_gradient(gradients, weights.lane(1));
    const bool third = (with_weight || late) && !wgrad_first;
    const StreamFork fork(caller, with_input + apart + third);
    int lane = 0;
    if (with_input) input_gradient(gradients.input, fork.lane(lane++), beside.lane(1));
    if (apart) sampling_gradients(gradients, fork.lane(lane++));
    if (plan_.owgrad) {
      sampling_and_weight_gradients(gradients, fork.lane(lane));
    } else if (with_weight && !wgrad_first) {
      weight_gradient(gradients, fork.lane(lane));
    }
    if (late) bias->run(wgrad_first ? weights.lane(1) : fork.lane(lane));
  }

 private:
  int64_t chunks() const {
    return plan_.dgrad.images > 0 ? tiles_of(shape_.N, plan_.dgrad.images) : 0;
  }
  const void* grad_rows(int64_t image) const {
    return static_cast<const uint8_t*>(grad_.const_data_ptr()) +
           image * shape_.output_pixels_per_image() * grad_layout_.channels *
               element_bytes(plan_.math);
  }

  void pack(cudaStream_t stream, bool beside_wgrad) const {
    PackWeightParams params =
        transposed_pack_params(call_.shape, plan_.math, call_.weight, plan_.merged);
    params.tile_channels = kPieceChannels;
    params.packed = workspace_.packed;
    params.counters = reinterpret_cast<int32_t*>(workspace_.counters);
    params.counter_count = static_cast<int32_t>(workspace_.counter_bytes / sizeof(int32_t));
    if (beside_wgrad) params.most_ctas = call_.multiprocessors * kPackPercent / 100;
    C10_CUDA_CHECK(launch_pack_weight(params, stream));
  }

  void input_gradient(const Tensor& gradient, c10::cuda::CUDAStream stream,
                      c10::cuda::CUDAStream beside) const {
    const DgradPlan& plan = plan_.dgrad;
    const bool nchw = !gradient.is_contiguous(at::MemoryFormat::ChannelsLast);
    uint8_t* counters = workspace_.counters;
    for (int32_t first = 0; first < shape_.N; first += plan.images) {
      LandingParams landing{};
      landing.shape = shape_;
      landing.first_image = first;
      landing.images = std::min(plan.images, shape_.N - first);
      landing.offset = call_.offset;
      landing.mask = call_.mask;
      landing.grad = grad_.const_data_ptr();
      landing.grad_dtype = dtype_of(call_.input);
      landing.grad_channels = grad_layout_.channels;
      landing.workspace = workspace_.landing;
      auto* const irregular = reinterpret_cast<IrregularTiles*>(counters);
      landing.heavy_count = &irregular->heavy_bins;
      C10_CUDA_CHECK(launch_landing_lists(landing, stream));
      at::cuda::CUDAEvent listed, summed;
      listed.record(stream);
      listed.block(beside);
      C10_CUDA_CHECK(launch_heavy_sums(landing, beside));
      summed.record(beside);

      DgradParams params{};
      params.shape = back_;
      params.shape.N = landing.images;
      params.layout = grad_layout_;
      params.input = grad_rows(first);
      params.weight = workspace_.packed;
      params.output = static_cast<uint8_t*>(gradient.mutable_data_ptr()) +
                      int64_t{first} * shape_.H * shape_.W * shape_.C * gradient.element_size();
      params.nchw = nchw;
      params.split_k = plan.split_k;
      params.irregular = irregular;
      counters += plan.irregular_bytes;
      params.lists = landing_lists(landing);
      params.merged = {back_, plan_.merged};
      params.channels_per_offset_group = shape_.channels_per_offset_group();
      const auto launch = [&](int tile) {
        C10_CUDA_CHECK(launch_dgrad_sm90(params, plan_.math, tile, call_.multiprocessors, stream));
      };
      launch(plan.tile);
      summed.block(stream);
      launch(kIrregularDgrad);
    }
  }

  static void* data(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }

  void sampling_gradients(const FusedGradients& gradients, cudaStream_t stream) const {
    OgradParams params{};
    params.shape = shape_;
    params.layout = layout_;
    params.grad_layout = grad_layout_;
    params.image = image_.const_data_ptr();
    params.grad = grad_.const_data_ptr();
    params.weight = workspace_.packed;
    params.offset = call_.offset;
    params.mask = call_.mask;
    params.grad_offset = data(gradients.offset);
    params.grad_mask = data(gradients.mask);
    C10_CUDA_CHECK(launch_ograd_sm90(params, plan_.math, call_.multiprocessors, stream));
  }

  void weight_gradient(const FusedGradients& gradients, cudaStream_t stream) const {
    C10_CUDA_CHECK(launch_wgrad_sm90(weight_params(gradients.weight), plan_.math, stream));
  }

  void sampling_and_weight_gradients(const FusedGradients& gradients, cudaStream_t stream) const {
    OwgradParams params{};
    static_cast<WgradParams&>(params) = weight_params(gradients.weight);
    params.weight = workspace_.packed;
    params.grad_offset = data(gradients.offset);
    params.grad_mask = data(gradients.mask);
    if (plan_.owgrad_part_bytes > 0) {
      params.parts = reinterpret_cast<float*>(workspace_.owgrad_parts);
    }
    C10_CUDA_CHECK(launch_owgrad_sm90(params, plan_.math, stream));
  }

  WgradParams weight_params(const Tensor& gradient) const {
    WgradParams params{};
    params.shape = shape_;
    params.layout = layout_;
    params.grad_layout = grad_layout_;
    params.input = image_.const_data_ptr();
    params.offset = call_.offset;
    params.mask = call_.mask;
    params.grad = grad_.const_data_ptr();
    params.grad_weight = gradient.mutable_data_ptr();
    params.stride_k = gradient.stride(0);
    params.stride_c = gradient.stride(1);
    params.stride_r = gradient.stride(2);
    params.stride_s = gradient.stride(3);
    params.merged = {shape_, plan_.merged};
    params.tile = plan_.wgrad.tile;
    params.ctas = plan_.wgrad.ctas;
    params.early_ctas = plan_.wgrad.early_ctas;
    params.early_steps = plan_.wgrad.early_steps;
    params.partial = reinterpret_cast<float*>(workspace_.wgrad_partial);
    return params;
  }

  const FusedCall& call_;
  const FusedBackwardPlan& plan_;
  const ConvShape shape_, back_;  // of merged groups
  const FusedLayout layout_, grad_layout_;
  const Tensor image_, grad_;  // NHWC, padded
  const Workspace workspace_;
};

}  // namespace

void fused_backward(const FusedCall& call, const Tensor& grad, const FusedGradients& gradients,
                    const BiasGradient* bias) {
  if (call.plan.fused_backward.scatter.chosen()) {
    return scatter_backward(call, grad, gradients, bias);
  }
  Backward(call, grad).run(gradients, bias);
}

}  // namespace dcn
