// The values of a tile's samples in shared memory, 8 channels each, from where the tensor cores
// take them.
#pragma once

#include "scatter_shared.cuh"

namespace dcn {

// 16 bits: [samples], which wgmma reads by blocks of 8.
template <typename Element>
struct ScatterValues {
  // A vector of a block's; there is one.
  static __device__ __forceinline__ void store(Element* values, int32_t tap, int32_t pixel,
                                               int /*vector*/, const uint32_t (&value)[4]) {
    reinterpret_cast<uint4*>(values)[tap * kScatterPixels + pixel] = {value[0], value[1], value[2],
                                                                      value[3]};
  }
};

// f32: [taps][8 channels][pixels], so that a warp's fragments are vectors along the pixels; those
// of odd channels by the other half of the banks.
template <>
struct ScatterValues<float> {
  static __device__ __forceinline__ void store(float* values, int32_t tap, int32_t pixel,
                                               int vector, const uint32_t (&value)[4]) {
    auto* const to =
        reinterpret_cast<uint32_t*>(values) + (tap * kBlockChannels + 4 * vector) * kScatterPixels;
#pragma unroll
    for (int c = 0; c < 4; ++c) to[c * kScatterPixels + (pixel ^ swizzle(c))] = value[c];
  }
  // Of 16 pixels: 4 that follow one another.
  static __device__ __forceinline__ void load(const float* values, int32_t tap, int32_t part,
                                              int lane, uint32_t (&value)[4]) {
    const int32_t channel = lane / 4, pixel = part * 16 + lane % 4 * 4;
    const uint4 vector = *reinterpret_cast<const uint4*>(
        values + (tap * kBlockChannels + channel) * kScatterPixels + (pixel ^ swizzle(channel)));
    value[0] = vector.x, value[1] = vector.y, value[2] = vector.z, value[3] = vector.w;
  }

 private:
  static DCN_HOST_DEVICE int32_t swizzle(int32_t channel) { return channel % 2 * 16; }
};

}  // namespace dcn
