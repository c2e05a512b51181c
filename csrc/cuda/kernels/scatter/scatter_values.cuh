// The values of a tile's samples in shared memory, from where a warp takes fragments of B: 8
// channels x vectors along the pixels.
#pragma once

#include "scatter_shared.cuh"

namespace dcn {

// 16 bits: [samples] of 8 channels; matrices are transposed as they are loaded.
template <typename Element>
struct ScatterValues {
  static __device__ __forceinline__ void store(Element* values, int32_t tap, int32_t pixel,
                                               const uint32_t (&value)[4]) {
    reinterpret_cast<uint4*>(values)[tap * kScatterPixels + pixel] = {value[0], value[1], value[2],
                                                                      value[3]};
  }
  // Of 32 pixels: register i holds, of matrix i, the pixels 2 * (lane % 4) and the next one.
  static __device__ __forceinline__ void load(const Element* values, int32_t tap, int32_t part,
                                              int lane, uint32_t (&value)[4]) {
    ptx::load_transposed(
        ptx::shared_address(values) + (tap * kScatterPixels + part * 32 + lane) * kVectorBytes,
        value);
  }
  // Where the transposed gradient has the pixels of such a part.
  static DCN_HOST_DEVICE int32_t place(int32_t pixel) {
    return pixel / 32 * 32 + pixel % 8 / 2 * 8 + pixel / 8 % 4 * 2 + pixel % 2;
  }
};

// f32: [taps][8 channels][pixels]; those of odd channels by the other half of the banks.
template <>
struct ScatterValues<float> {
  static __device__ __forceinline__ void store(float* values, int32_t tap, int32_t pixel,
                                               const uint32_t (&value)[kBlockChannels]) {
    auto* const to = reinterpret_cast<uint32_t*>(values) + tap * kBlockChannels * kScatterPixels;
#pragma unroll
    for (int c = 0; c < kBlockChannels; ++c)
      to[c * kScatterPixels + (pixel ^ swizzle(c))] = value[c];
  }
  // Of 16 pixels: 4 that follow one another.
  static __device__ __forceinline__ void load(const float* values, int32_t tap, int32_t part,
                                              int lane, uint32_t (&value)[4]) {
    const int32_t channel = lane / 4, pixel = part * 16 + lane % 4 * 4;
    const uint4 vector = *reinterpret_cast<const uint4*>(
        values + (tap * kBlockChannels + channel) * kScatterPixels + (pixel ^ swizzle(channel)));
    value[0] = vector.x, value[1] = vector.y, value[2] = vector.z, value[3] = vector.w;
  }
  static DCN_HOST_DEVICE int32_t place(int32_t pixel) { return pixel; }

 private:
  static DCN_HOST_DEVICE int32_t swizzle(int32_t channel) { return channel % 2 * 16; }
};

}  // namespace dcn
