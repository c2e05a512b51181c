// The weight gradient of compute capability 9.0 on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/wgrad_launch.h"
#include "runs.h"
#include "wgrad_plan.h"

namespace dcn {
template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream);
}  // namespace dcn

namespace emulation {

// [K, C/G, R, S].
template <class Math>
std::vector<float> run_wgrad(const Convolution& conv, int tile, int ctas) {
  using Element = typename Math::Element;
  const dcn::ConvShape& shape = conv.shape;
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  const dcn::FusedLayout grad_layout = dcn::fused_layout(dcn::transposed(shape), sizeof(Element));
  const dcn::WgradPlan plan =
      dcn::plan_wgrad(shape, Math::kKind, /*multiprocessors=*/12, tile, ctas);
  auto image = padded_to_device<Element>(conv.image, shape.C, shape.G, layout);
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout);
  auto offset = to_device<float>(conv.offset), mask = to_device<float>(conv.mask);
  DeviceArray<uint8_t> partial(plan.partial_bytes);
  DeviceArray<Element> result(static_cast<int64_t>(conv.weight.size()));

  dcn::WgradParams params{};
  params.shape = shape;
  params.layout = layout;
  params.grad_layout = grad_layout;
  params.input = image.data();
  params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
  params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
  params.grad = grad.data();
  params.grad_weight = result.data();
  params.stride_k = int64_t{shape.channels_per_group()} * shape.taps();
  params.stride_c = shape.taps();
  params.stride_r = shape.S;
  params.stride_s = 1;
  params.tile = plan.tile;
  params.ctas = plan.ctas;
  params.partial = reinterpret_cast<float*>(partial.data());
  dcn::lay_out_steps(params);
  if (dcn::launch_wgrad_math<Math>(params, nullptr) != cudaSuccess ||
      dcn::launch_wgrad_sum(params, Math::kKind, nullptr) != cudaSuccess) {
    fail("no such tile");
  }
  if (!result.guards_intact() || !partial.guards_intact()) fail("write outside an array");
  allow_nothing();
  return to_host(result, static_cast<int64_t>(conv.weight.size()));
}

}  // namespace emulation
