// What the kernels of the weight gradient read and write, in the emulator's memory.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/kernels/wgrad/wgrad_params.h"
#include "runs.h"
#include "wgrad_plan.h"

namespace emulation {

template <class Math>
struct WgradArrays {
  using Element = typename Math::Element;

  // `merged`: convolution groups that run as one.
  WgradArrays(const Convolution& conv, const dcn::WgradPlan& plan, int merged)
      : shape(dcn::merged(conv.shape, merged)),
        layout(dcn::fused_layout(shape, sizeof(Element))),
        grad_layout(dcn::fused_layout(dcn::transposed(shape), sizeof(Element))),
        image(padded_to_device<Element>(conv.image, shape.C, shape.G, layout)),
        grad(padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout)),
        offset(to_device<float>(conv.offset)),
        mask(to_device<float>(conv.mask)),
        partial(plan.partial_bytes),
        weight(static_cast<int64_t>(conv.weight.size())) {}

  void fill(const Convolution& conv, const dcn::WgradPlan& plan, dcn::WgradParams& params) {
    params.shape = shape;
    params.merged = {shape, conv.shape.G / shape.G};
    params.layout = layout;
    params.grad_layout = grad_layout;
    params.input = image.data();
    params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
    params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
    params.grad = grad.data();
    params.grad_weight = weight.data();
    const int64_t channels = conv.shape.channels_per_group();
    channels_last = plan.ctas % 2 == 0;
    params.stride_k = channels * shape.taps();
    params.stride_c = channels_last ? 1 : shape.taps();
    params.stride_s = channels_last ? channels : 1;
    params.stride_r = shape.S * params.stride_s;
    params.tile = plan.tile;
    params.ctas = plan.ctas;
    params.partial = reinterpret_cast<float*>(partial.data());
    dcn::lay_out_steps(params);
    if (plan.ctas > 2) {
      params.early_ctas = plan.ctas / 2;
      const int64_t late = params.ctas - params.early_ctas;
      params.early_steps = params.all_steps - std::max(late, params.all_steps / 5);
    }
  }

  // Its gradient, [K, C/G, R, S], of the shape of the call.
  std::vector<float> weight_on_host(const dcn::ConvShape& of_call) {
    const int64_t channels = of_call.channels_per_group(), taps = shape.taps();
    const std::vector<float> stored = to_host(weight, shape.K * channels * taps);
    if (!channels_last) return stored;
    std::vector<float> result(stored.size());
    for (int64_t i = 0; i < static_cast<int64_t>(stored.size()); ++i) {
      const int64_t k = i / (channels * taps), c = i / taps % channels, tap = i % taps;
      result[static_cast<size_t>(i)] = stored[static_cast<size_t>((k * taps + tap) * channels + c)];
    }
    return result;
  }

  const dcn::ConvShape shape;  // of merged groups
  const dcn::FusedLayout layout, grad_layout;
  DeviceArray<Element> image, grad;
  DeviceArray<float> offset, mask;
  DeviceArray<uint8_t> partial;
  DeviceArray<Element> weight;
  bool channels_last;  // of its gradient
};

}  // namespace emulation
