// The input gradient of compute capability 9.0 on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/dgrad/dgrad_sm90.cuh"
#include "host_lists.h"
#include "runs.h"

namespace emulation {

inline bool dgrad_fits(const dcn::ConvShape& shape, dcn::FusedMath math, int tile, int split_k) {
  const dcn::FpropTile& chosen = dcn::kDgradTiles[tile];
  const int32_t per_offset_group = shape.channels_per_offset_group();
  const bool together = shape.D == 1 || per_offset_group % chosen.channels == 0 ||
                        per_offset_group % shape.channels_per_group() == 0;
  return dcn::dgrad_tile_exists(chosen, math) && together &&
         dcn::split_fits(chosen, math,
                         dcn::fused_layout(dcn::transposed(shape), dcn::element_bytes(math)).steps,
                         split_k);
}

struct DgradResult {
  std::vector<float> grad_input;  // [N, H, W, C]
  int irregular_tiles, heavy_bins;
};

template <class Math>
DgradResult run_dgrad(const Convolution& conv, const GemmRun& run, int heavy = dcn::kHeavyBin) {
  using Element = typename Math::Element;
  const dcn::ConvShape shape = dcn::merged(conv.shape, run.merged);
  const dcn::ConvShape back = dcn::transposed(shape);
  const dcn::FusedLayout layout = dcn::fused_layout(back, sizeof(Element));
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, layout);
  auto packed =
      packed_weight<Math>(conv, /*transposed=*/true, dcn::kPieceChannels, !run.nchw, run.merged);
  HostLists<Math> lists(conv, heavy, run.merged);
  auto irregular = DeviceArray<uint8_t>::zeros(dcn::irregular_bytes(dcn::dgrad_rows(back)));
  DeviceArray<Element> output(back.output_pixels() * shape.C);

  dcn::DgradParams params{};
  params.shape = back;
  params.layout = layout;
  params.input = grad.data();
  params.weight = packed.data();
  params.output = output.data();
  params.nchw = run.nchw;
  params.split_k = run.split_k;
  params.irregular = reinterpret_cast<dcn::IrregularTiles*>(irregular.data());
  params.lists = {lists.records.data(), lists.starts.data(), lists.heavy_rows.data()};
  params.merged = {back, run.merged};
  params.channels_per_offset_group = shape.channels_per_offset_group();
  for (const int tile : {run.tile, dcn::kIrregularDgrad}) {
    if (dcn::launch_dgrad_math<Math>(params, tile, run.multiprocessors, nullptr) != cudaSuccess) {
      fail("no such tile");
    }
  }
  if (!output.guards_intact() || !irregular.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  return {channels_last(to_host(output, back.output_pixels() * shape.C), shape.N,
                        int64_t{shape.H} * shape.W, shape.C, run.nchw),
          params.irregular->count, lists.heavy_bins};
}

}  // namespace emulation
