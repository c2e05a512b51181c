// The input gradient's sums, which the scatter leaves by blocks of channels in 16 bits, to their
// dtype and layout.
#pragma once

#include "../sampling.cuh"
#include "scatter_params.h"

namespace dcn {

constexpr int kStoreThreads = 256;
constexpr int kLinePixels = 4;                  // whose blocks of sums are a line
constexpr int kStoreSums = kBlockChannels / 2;  // of a thread: a vector

// A thread has half a block of a pixel. Neighbours read, and write, what lies side by side.
DCN_HOST_DEVICE int64_t stores_of_image(const ConvShape& shape, const ScatterBlocks& blocks) {
  const int64_t lines = (int64_t{shape.H} * shape.W + kLinePixels - 1) / kLinePixels;
  return lines * kLinePixels * shape.D * blocks.count * 2;
}

template <class Math>
__device__ __forceinline__ void store_input(const ScatterParams& params, int64_t cta) {
  using Element = typename Math::Element;
  using Values = Vector<Element, kStoreSums>;
  const ConvShape& shape = params.shape;
  const int32_t units = shape.D * params.blocks.count, pixels = shape.H * shape.W;
  const int64_t i = cta * kStoreThreads + threadIdx.x;
  const int64_t of_image = stores_of_image(shape, params.blocks);
  const auto n = static_cast<int32_t>(i / of_image);
  const auto inside = static_cast<uint32_t>(i - n * of_image) / 2;
  const int32_t half = threadIdx.x % 2 * kStoreSums;
  const bool channels_last = params.input_c == 1;
  uint32_t unit, pixel;
  if (channels_last) {
    const uint32_t line = inside / (kLinePixels * units), low = inside - line * kLinePixels * units;
    unit = low / kLinePixels, pixel = line * kLinePixels + low % kLinePixels;
  } else {
    const uint32_t row = (pixels + kLinePixels - 1) / kLinePixels * kLinePixels;
    unit = inside / row, pixel = inside - unit * row;
  }
  if (n >= shape.N || pixel >= pixels) return;
  const float4 loaded = __ldcg(reinterpret_cast<const float4*>(
      params.grad_input + ((int64_t{n} * units + unit) * pixels + pixel) * kBlockChannels + half));
  const float sums[kStoreSums] = {loaded.x, loaded.y, loaded.z, loaded.w};
  Values values;
#pragma unroll
  for (int c = 0; c < kStoreSums; ++c) narrow(sums[c], values.lane[c]);
  const uint32_t offset_group = unit / params.blocks.count;
  const ScatterBlock at = scatter_block(params.layout, params.blocks, offset_group,
                                        unit - offset_group * params.blocks.count);
  const int32_t channel =
      at.group * shape.channels_per_group() +
      unpadded_channel(params.layout, at.channel - at.group * params.layout.group_channels);
  const uint32_t y = pixel / shape.W, x = pixel - y * shape.W;
  Element* const to = static_cast<Element*>(params.stored_input) + n * params.input_n +
                      (channel + half) * params.input_c + y * params.input_h + x * params.input_w;
  if (channels_last && half + kStoreSums <= at.channels &&
      reinterpret_cast<uintptr_t>(to) % alignof(Values) == 0) {
    *reinterpret_cast<Values*>(to) = values;
    return;
  }
#pragma unroll
  for (int c = 0; c < kStoreSums; ++c) {
    if (half + c < at.channels) to[c * params.input_c] = values.lane[c];
  }
}

}  // namespace dcn
