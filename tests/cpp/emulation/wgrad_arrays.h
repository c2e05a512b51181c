// What the kernels of the weight gradient read and write, in the emulator's memory.
#pragma once

#include "cuda/kernels/wgrad_params.h"
#include "runs.h"
#include "wgrad_plan.h"

namespace emulation {

template <class Math>
struct WgradArrays {
  using Element = typename Math::Element;

  WgradArrays(const Convolution& conv, const dcn::WgradPlan& plan)
      : layout(dcn::fused_layout(conv.shape, sizeof(Element))),
        grad_layout(dcn::fused_layout(dcn::transposed(conv.shape), sizeof(Element))),
        image(padded_to_device<Element>(conv.image, conv.shape.C, conv.shape.G, layout)),
        grad(padded_to_device<Element>(conv.grad, conv.shape.K, conv.shape.G, grad_layout)),
        offset(to_device<float>(conv.offset)),
        mask(to_device<float>(conv.mask)),
        partial(plan.partial_bytes),
        weight(static_cast<int64_t>(conv.weight.size())) {}

  void fill(const Convolution& conv, const dcn::WgradPlan& plan, dcn::WgradParams& params) {
    const dcn::ConvShape& shape = conv.shape;
    params.shape = shape;
    params.layout = layout;
    params.grad_layout = grad_layout;
    params.input = image.data();
    params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
    params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
    params.grad = grad.data();
    params.grad_weight = weight.data();
    params.stride_k = int64_t{shape.channels_per_group()} * shape.taps();
    params.stride_c = shape.taps();
    params.stride_r = shape.S;
    params.stride_s = 1;
    params.tile = plan.tile;
    params.ctas = plan.ctas;
    params.partial = reinterpret_cast<float*>(partial.data());
    dcn::lay_out_steps(params);
  }

  const dcn::FusedLayout layout, grad_layout;
  DeviceArray<Element> image, grad;
  DeviceArray<float> offset, mask;
  DeviceArray<uint8_t> partial;
  DeviceArray<Element> weight;  // its gradient, [K, C/G, R, S]
};

}  // namespace emulation
