// The input gradient's sums, which the scatter leaves by blocks of channels in 16 bits, to their
// dtype and layout.
#pragma once

#include "../sampling.cuh"
#include "scatter_params.h"

namespace dcn {

constexpr int kStoreThreads = 256;

// A thread has a block of a pixel. Neighbours have what lies side by side in the result.
template <class Math>
__global__ void __launch_bounds__(kStoreThreads)
    dcn_scatter_input_kernel(const __grid_constant__ ScatterParams params) {
  using Element = typename Math::Element;
  using Values = Vector<Element, kBlockChannels>;
  const ConvShape& shape = params.shape;
  const int32_t units = shape.D * params.blocks.count, pixels = shape.H * shape.W;
  const int64_t i = int64_t{blockIdx.x} * kStoreThreads + threadIdx.x;
  const int64_t of_image = int64_t{units} * pixels;
  const auto n = static_cast<int32_t>(i / of_image);
  if (n >= shape.N) return;
  const auto inside = static_cast<uint32_t>(i - n * of_image);
  const bool channels_last = params.input_c == 1;
  const uint32_t fast = channels_last ? units : pixels;
  const uint32_t high = inside / fast, low = inside - high * fast;
  const uint32_t unit = channels_last ? low : high, pixel = channels_last ? high : low;

  const auto* const from = reinterpret_cast<const float4*>(
      params.grad_input + ((int64_t{n} * units + unit) * pixels + pixel) * kBlockChannels);
  const float4 first = __ldcg(from), second = __ldcg(from + 1);
  const float sums[kBlockChannels] = {first.x,  first.y,  first.z,  first.w,
                                      second.x, second.y, second.z, second.w};
  Values values;
#pragma unroll
  for (int c = 0; c < kBlockChannels; ++c) narrow(sums[c], values.lane[c]);
  const uint32_t offset_group = unit / params.blocks.count;
  const ScatterBlock at = scatter_block(params.layout, params.blocks, offset_group,
                                        unit - offset_group * params.blocks.count);
  const int32_t channel =
      at.group * shape.channels_per_group() +
      unpadded_channel(params.layout, at.channel - at.group * params.layout.group_channels);
  const uint32_t y = pixel / shape.W, x = pixel - y * shape.W;
  Element* const to = static_cast<Element*>(params.stored_input) + n * params.input_n +
                      channel * params.input_c + y * params.input_h + x * params.input_w;
  if (channels_last && at.channels == kBlockChannels &&
      reinterpret_cast<uintptr_t>(to) % alignof(Values) == 0) {
    *reinterpret_cast<Values*>(to) = values;
    return;
  }
#pragma unroll
  for (int c = 0; c < kBlockChannels; ++c) {
    if (c < at.channels) to[c * params.input_c] = values.lane[c];
  }
}

}  // namespace dcn
