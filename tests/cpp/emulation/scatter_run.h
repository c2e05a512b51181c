// The scatter on the emulator: gradients of input, weight, offset and mask.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/kernels/scatter/scatter.cuh"
#include "image_planes_run.h"
#include "runs.h"

namespace emulation {

struct ScatterResult {
  std::vector<float> input, weight, offset, mask;  // NHWC; as the arguments
};

struct ScatterRun {
  int most_ctas = 5;
  bool with_weight = true, with_samples = true;   // gradients: of the weight; of all else
  bool short_offset = false, short_mask = false;  // maps of the image's type, not f32
};

// The gradient of a map, in its type.
template <class Math>
struct DeviceMapGradient {
  DeviceMapGradient(int64_t count, bool is_short)
      : wide(is_short ? 0 : count), narrow(is_short ? count : 0), is_short(is_short) {}
  void* data() { return is_short ? static_cast<void*>(narrow.data()) : wide.data(); }
  bool guards_intact() const { return wide.guards_intact() && narrow.guards_intact(); }
  std::vector<float> host(int64_t count) {
    return is_short ? to_host(narrow, count) : to_host(wide, count);
  }
  DeviceArray<float> wide;
  DeviceArray<typename Math::Element> narrow;
  bool is_short;
};

template <class Math>
ScatterResult run_scatter(const Convolution& conv, const ScatterRun& run = {}) {
  using Element = typename Math::Element;
  const dcn::ConvShape& shape = conv.shape;
  const dcn::FusedLayout layout = dcn::fused_layout(shape, sizeof(Element));
  const dcn::FusedLayout grad_layout = dcn::fused_layout(dcn::transposed(shape), sizeof(Element));
  auto planes = image_planes<Math>(conv);
  auto grad = padded_to_device<Element>(conv.grad, shape.K, shape.G, grad_layout);
  auto weight = to_device<Element>(conv.weight);
  const int32_t maps = shape.D * shape.taps();
  const DeviceMap<Math> offset(shape, conv.offset, 2 * maps, run.short_offset);
  const DeviceMap<Math> mask(shape, conv.mask, maps, run.short_mask);
  DeviceArray<float> sums(dcn::input_sum_bytes(shape, sizeof(Element)) /
                          static_cast<int64_t>(sizeof(float)));
  DeviceArray<Element> grad_input(shape.input_pixels() * shape.C);
  const auto offsets = static_cast<int64_t>(conv.offset.size());
  const auto masks = static_cast<int64_t>(conv.mask.size());
  DeviceMapGradient<Math> grad_offset(offsets, run.short_offset);
  DeviceMapGradient<Math> grad_mask(masks, run.short_mask);

  const dcn::ScatterWork work = dcn::scatter_work(shape, sizeof(Element));
  const auto ctas = static_cast<int32_t>(std::min<int64_t>(run.most_ctas, work.tiles * shape.D));
  DeviceArray<uint8_t> transposed(dcn::transposed_grad_bytes(shape, sizeof(Element)));
  DeviceArray<uint8_t> partial(dcn::scatter_partial_bytes(shape, sizeof(Element), ctas));
  DeviceArray<Element> grad_weight(static_cast<int64_t>(conv.weight.size()));

  dcn::PackScatterWeightParams pack{};
  pack.shape = shape;
  pack.layout = layout;
  pack.grad_layout = grad_layout;
  pack.math = Math::kKind;
  pack.weight = weight.data();
  pack.stride_k = shape.channels_per_group() * shape.taps();
  pack.stride_c = shape.taps();
  pack.stride_r = shape.S;
  pack.stride_s = 1;
  DeviceArray<uint8_t> packed(dcn::packed_scatter_bytes(shape, Math::kKind));
  pack.packed = packed.data();
  if (dcn::launch_pack_scatter_weight(pack, nullptr, false) != cudaSuccess ||
      !packed.guards_intact()) {
    fail("the weight is not packed");
  }

  dcn::ScatterParams params{};
  params.shape = shape;
  params.layout = layout;
  params.grad_layout = grad_layout;
  params.image = planes.data();
  params.grad = grad.data();
  params.weight = packed.data();
  params.offset = offset.map;
  if (conv.has_mask) params.mask = mask.map;
  params.ctas = ctas;
  if (run.with_samples) {
    params.grad_input = sums.data();
    if (dcn::launch_clear_sums(sums.data(), dcn::input_sum_bytes(shape, sizeof(Element)),
                               /*multiprocessors=*/2, nullptr, false) != cudaSuccess) {
      fail("not launched");
    }
    params.stored_input = grad_input.data();
    params.input_n = int64_t{shape.H} * shape.W * shape.C;
    params.input_h = int64_t{shape.W} * shape.C;
    params.input_w = shape.C;
    params.input_c = 1;
    params.grad_offset = grad_offset.data();
    params.grad_mask = conv.has_mask ? grad_mask.data() : nullptr;
  }
  if (run.with_weight) {
    params.transposed_grad = transposed.data();
    params.partial = reinterpret_cast<float*>(partial.data());
    params.grad_weight = grad_weight.data();
    params.stride_k = int64_t{shape.channels_per_group()} * shape.taps();
    params.stride_c = shape.taps();
    params.stride_r = shape.S;
    params.stride_s = 1;
    if constexpr (sizeof(Element) == 4) {
      if (dcn::launch_transpose_grad_math<Math>(params, nullptr, false) != cudaSuccess) {
        fail("not launched");
      }
    }
  }
  if (dcn::launch_scatter_math<Math>(params, nullptr) != cudaSuccess ||
      dcn::launch_scatter_results_math<Math>(params, nullptr) != cudaSuccess) {
    fail("not launched");
  }
  if (!sums.guards_intact() || !grad_input.guards_intact() || !grad_offset.guards_intact() ||
      !grad_mask.guards_intact() || !transposed.guards_intact() || !partial.guards_intact() ||
      !grad_weight.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  ScatterResult result;
  if (run.with_weight)
    result.weight = to_host(grad_weight, static_cast<int64_t>(conv.weight.size()));
  if (!run.with_samples) return result;
  result.offset = grad_offset.host(offsets);
  if (conv.has_mask) result.mask = grad_mask.host(masks);
  if constexpr (sizeof(Element) == 2) {
    result.input = to_host(grad_input, shape.input_pixels() * shape.C);
    return result;
  }
  for (int64_t i = 0; i < shape.input_pixels() * layout.channels; ++i) {
    const auto in_group = static_cast<int32_t>(i % layout.channels % layout.group_channels);
    if (dcn::unpadded_channel(layout, in_group) >= 0) result.input.push_back(sums[i]);
  }
  return result;
}

}  // namespace emulation
