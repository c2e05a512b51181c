// The offset and mask gradients of compute capability 9.0 on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/ograd/ograd_sm90.cuh"
#include "dgrad_tiles.h"
#include "runs.h"

namespace emulation {

struct OgradResult {
  std::vector<float> offset, mask;  // [N, 2 D R S, P, Q]; [N, D R S, P, Q]
};

template <class Math>
OgradResult run_ograd(const Convolution& conv, dcn::OgradChoice choice, int multiprocessors,
                      int merged = 1) {
  using Element = typename Math::Element;
  const dcn::ConvShape shape = dcn::merged(conv.shape, merged);
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  const dcn::FusedLayout grad_layout = dcn::fused_layout(dcn::transposed(shape), sizeof(Element));
  auto image = padded_to_device<Element>(conv.image, shape.C, shape.G, layout);
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout);
  auto packed = packed_weight<Math>(conv, /*transposed=*/true, dcn::kPieceChannels,
                                    /*channels_last=*/false, merged);
  auto offset = to_device<float>(conv.offset), mask = to_device<float>(conv.mask);
  DeviceArray<float> grad_offset(static_cast<int64_t>(conv.offset.size()));
  DeviceArray<float> grad_mask(static_cast<int64_t>(conv.mask.size()));

  dcn::OgradParams params{};
  params.shape = shape;
  params.layout = layout;
  params.grad_layout = grad_layout;
  params.image = image.data();
  params.grad = grad.data();
  params.weight = packed.data();
  params.offset = map_of(shape, offset.data(), 2 * shape.D * shape.taps());
  params.mask = map_of(shape, conv.has_mask ? mask.data() : nullptr, shape.D * shape.taps());
  params.grad_offset = grad_offset.data();
  params.grad_mask = conv.has_mask ? grad_mask.data() : nullptr;
  if (dcn::launch_ograd_math<Math>(params, choice, multiprocessors, nullptr) != cudaSuccess) {
    fail("no such tile");
  }
  if (!grad_offset.guards_intact() || !grad_mask.guards_intact()) fail("write outside an array");
  allow_nothing();
  return {to_host(grad_offset, static_cast<int64_t>(conv.offset.size())),
          to_host(grad_mask, static_cast<int64_t>(conv.mask.size()))};
}

}  // namespace emulation
