// The weight gradient of narrow offset groups on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/wgrad_narrow.cuh"
#include "image_planes_run.h"
#include "runs.h"

namespace emulation {

// [K, C/G, R, S].
template <class Math>
std::vector<float> run_wgrad_narrow(const Convolution& conv, int slices) {
  using Element = typename Math::Element;
  const dcn::ConvShape& shape = conv.shape;
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  const dcn::FusedLayout grad_layout = dcn::fused_layout(dcn::transposed(shape), sizeof(Element));
  auto planes = image_planes<Math>(conv);
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout);
  auto offset = to_device<float>(conv.offset), mask = to_device<float>(conv.mask);
  DeviceArray<uint8_t> transposed(dcn::transposed_grad_bytes(shape, sizeof(Element)));
  DeviceArray<uint8_t> partial(dcn::narrow_partial_bytes(shape, sizeof(Element), slices));
  DeviceArray<Element> result(static_cast<int64_t>(conv.weight.size()));

  dcn::WgradNarrowParams params{};
  params.shape = shape;
  params.layout = layout;
  params.grad_layout = grad_layout;
  params.image = planes.data();
  params.grad = grad.data();
  params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
  params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
  params.transposed_grad = transposed.data();
  params.partial = reinterpret_cast<float*>(partial.data());
  params.slices = slices;
  params.grad_weight = result.data();
  params.stride_k = int64_t{shape.channels_per_group()} * shape.taps();
  params.stride_c = shape.taps();
  params.stride_r = shape.S;
  params.stride_s = 1;
  if (dcn::launch_wgrad_narrow_math<Math>(params, nullptr) != cudaSuccess) fail("not launched");
  if (!result.guards_intact() || !partial.guards_intact() || !transposed.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  return to_host(result, static_cast<int64_t>(conv.weight.size()));
}

}  // namespace emulation
