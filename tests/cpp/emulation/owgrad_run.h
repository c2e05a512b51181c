// The offset, mask and weight gradients together, of compute capability 9.0, on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/owgrad_launch.h"
#include "cuda/kernels/owgrad_sm90.cuh"
#include "dgrad_tiles.h"
#include "owgrad_plan.h"
#include "runs.h"

namespace emulation {

struct OwgradResult {
  std::vector<float> offset, mask, weight;  // of the shapes of these
};

template <class Math>
OwgradResult run_owgrad(const Convolution& conv, int tile, int ctas) {
  using Element = typename Math::Element;
  const dcn::ConvShape& shape = conv.shape;
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  const dcn::FusedLayout grad_layout = dcn::fused_layout(dcn::transposed(shape), sizeof(Element));
  const dcn::WgradPlan plan =
      dcn::plan_wgrad(shape, Math::kKind, /*multiprocessors=*/12, tile, ctas);
  auto image = padded_to_device<Element>(conv.image, shape.C, shape.G, layout);
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout);
  auto packed = packed_weight<Math>(conv, /*transposed=*/true, dcn::kPieceChannels);
  auto offset = to_device<float>(conv.offset), mask = to_device<float>(conv.mask);
  DeviceArray<uint8_t> partial(plan.partial_bytes);
  DeviceArray<uint8_t> parts(dcn::owgrad_part_bytes(shape, layout, dcn::kWgradTiles[plan.tile]));
  DeviceArray<Element> grad_weight(static_cast<int64_t>(conv.weight.size()));
  DeviceArray<float> grad_offset(static_cast<int64_t>(conv.offset.size()));
  DeviceArray<float> grad_mask(static_cast<int64_t>(conv.mask.size()));

  dcn::OwgradParams params{};
  params.shape = shape;
  params.layout = layout;
  params.grad_layout = grad_layout;
  params.input = image.data();
  params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
  params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
  params.grad = grad.data();
  params.grad_weight = grad_weight.data();
  params.stride_k = int64_t{shape.channels_per_group()} * shape.taps();
  params.stride_c = shape.taps();
  params.stride_r = shape.S;
  params.stride_s = 1;
  params.tile = plan.tile;
  params.ctas = plan.ctas;
  params.partial = reinterpret_cast<float*>(partial.data());
  params.weight = packed.data();
  params.grad_offset = grad_offset.data();
  params.grad_mask = conv.has_mask ? grad_mask.data() : nullptr;
  if (dcn::owgrad_parts(shape, layout, dcn::kWgradTiles[plan.tile]) > 1) {
    params.parts = reinterpret_cast<float*>(parts.data());
  }
  dcn::lay_out_steps(params);
  params.unit_slices = dcn::owgrad_slices(layout, dcn::kWgradTiles[plan.tile]);
  if (dcn::launch_owgrad_math<Math>(params, nullptr) != cudaSuccess ||
      dcn::launch_wgrad_sum(params, Math::kKind, nullptr) != cudaSuccess ||
      dcn::launch_owgrad_sum(params, nullptr) != cudaSuccess) {
    fail("no such tile");
  }
  if (!grad_weight.guards_intact() || !partial.guards_intact() || !parts.guards_intact() ||
      !grad_offset.guards_intact() || !grad_mask.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  return {to_host(grad_offset, static_cast<int64_t>(conv.offset.size())),
          to_host(grad_mask, static_cast<int64_t>(conv.mask.size())),
          to_host(grad_weight, static_cast<int64_t>(conv.weight.size()))};
}

}  // namespace emulation
