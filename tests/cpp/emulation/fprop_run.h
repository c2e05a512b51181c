// The forward pass of compute capability 9.0 on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/fprop/fprop_merged_sm90.cuh"
#include "runs.h"

namespace emulation {

inline bool fprop_fits(const dcn::ConvShape& shape, dcn::FusedMath math, int tile, int split_k) {
  const dcn::FpropTile& chosen = dcn::kFpropTiles[tile];
  const dcn::FusedLayout layout = dcn::fused_layout(shape, dcn::element_bytes(math));
  return chosen.architecture == 90 && dcn::tile_exists(chosen, math) &&
         chosen.narrow == layout.narrow && dcn::split_fits(chosen, math, layout.steps, split_k) &&
         dcn::turns_fit(chosen, layout, shape.taps()) &&
         dcn::shared_bytes(chosen, math, dcn::tiles_of(layout.steps, split_k), split_k) <=
             dcn::kFusedSharedBytes;
}

// [N, P, Q, K].
template <class Math>
std::vector<float> run_fprop(const Convolution& conv, const GemmRun& run) {
  using Element = typename Math::Element;
  const dcn::ConvShape shape = dcn::merged(conv.shape, run.merged);
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  auto image = padded_to_device<Element>(conv.image, shape.C, shape.G, layout);
  auto bias = to_device<Element>(conv.bias);
  const int32_t maps = shape.D * shape.taps();
  const DeviceMap<Math> offset(shape, conv.offset, 2 * maps, run.short_offset);
  const DeviceMap<Math> mask(shape, conv.mask, maps, run.short_mask);
  auto packed = packed_weight<Math>(conv, /*transposed=*/false, dcn::kPieceChannels, !run.nchw,
                                    run.merged, run.whole);
  DeviceArray<Element> output(shape.output_pixels() * shape.K);

  dcn::FpropParams params{};
  params.shape = shape;
  params.layout = layout;
  params.input = image.data();
  params.offset = offset.map;
  params.mask = conv.has_mask ? mask.map : map_of(shape, nullptr, maps);
  params.weight = packed.data();
  params.bias = bias.data();
  params.output = output.data();
  params.nchw = run.nchw;
  params.split_k = run.split_k;
  params.whole = run.whole;
  const cudaError_t error =
      run.merged > 1 ? dcn::launch_fprop_merged_math<Math>(params, run.tile, run.merged,
                                                           run.multiprocessors, nullptr)
                     : dcn::launch_fprop_math<Math>(params, run.tile, run.multiprocessors, nullptr);
  if (error != cudaSuccess) fail("no such tile");
  if (!output.guards_intact() || !packed.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  return channels_last(to_host(output, shape.output_pixels() * shape.K), shape.N,
                       shape.output_pixels_per_image(), shape.K, run.nchw);
}

}  // namespace emulation
