// The offset, mask and weight gradients together, of compute capability 9.0, on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/owgrad/owgrad_launch.h"
#include "cuda/kernels/owgrad/owgrad_sm90.cuh"
#include "dgrad_tiles.h"
#include "owgrad_plan.h"
#include "wgrad_arrays.h"

namespace emulation {

struct OwgradResult {
  std::vector<float> offset, mask, weight;  // of the shapes of these
};

template <class Math>
OwgradResult run_owgrad(const Convolution& conv, int tile, int ctas, int merged = 1) {
  const dcn::ConvShape shape = dcn::merged(conv.shape, merged);
  const dcn::WgradPlan plan =
      dcn::plan_wgrad(shape, Math::kKind, /*multiprocessors=*/12, tile, ctas);
  WgradArrays<Math> arrays(conv, plan, merged);
  const dcn::FusedLayout& layout = arrays.layout;
  auto packed = packed_weight<Math>(conv, /*transposed=*/true, dcn::kPieceChannels,
                                    /*channels_last=*/false, merged);
  DeviceArray<uint8_t> parts(dcn::owgrad_part_bytes(shape, layout, dcn::kWgradTiles[plan.tile]));
  DeviceArray<float> grad_offset(static_cast<int64_t>(conv.offset.size()));
  DeviceArray<float> grad_mask(static_cast<int64_t>(conv.mask.size()));

  dcn::OwgradParams params{};
  arrays.fill(conv, plan, params);
  params.weight = packed.data();
  params.grad_offset = grad_offset.data();
  params.grad_mask = conv.has_mask ? grad_mask.data() : nullptr;
  if (dcn::owgrad_parts(shape, layout, dcn::kWgradTiles[plan.tile]) > 1) {
    params.parts = reinterpret_cast<float*>(parts.data());
  }
  params.unit_slices = dcn::owgrad_slices(layout, dcn::kWgradTiles[plan.tile]);
  if (dcn::launch_owgrad_math<Math>(params, nullptr) != cudaSuccess ||
      dcn::launch_wgrad_sum(params, Math::kKind, nullptr) != cudaSuccess ||
      dcn::launch_owgrad_sum(params, nullptr) != cudaSuccess) {
    fail("no such tile");
  }
  if (!arrays.weight.guards_intact() || !arrays.partial.guards_intact() || !parts.guards_intact() ||
      !grad_offset.guards_intact() || !grad_mask.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  return {to_host(grad_offset, static_cast<int64_t>(conv.offset.size())),
          to_host(grad_mask, static_cast<int64_t>(conv.mask.size())),
          arrays.weight_on_host(conv.shape)};
}

}  // namespace emulation
