// The dot products of f32 gradients and pixels: additions by each lane, then an exchange within the
// quad that shares a row.
//
// Lane (g, q) holds gcol of rows g and g + 8, and of each 32 channels the 8 from 8 * q on, two
// vectors of a pixel. Odd rows load the second one first: two rows of a quad then read different
// halves of a sector's neighbours, which the L1 serves at once.
#pragma once

#include "ograd_samples.cuh"

namespace dcn {

template <class Math, int kAhead, bool kRagged>
class FmaDots {
 public:
  __device__ __forceinline__ FmaDots(const OgradParams& params, const OgradWork& work,
                                     OgradPlan* plan, int lane)
      : work_(work), plan_(plan), lane_(lane) {
    const ConvShape& shape = params.shape;
    const uint32_t pixel = params.layout.channels * sizeof(float);
    column_ = shape.W > 1 ? pixel : 0;
    row_ = shape.H > 1 ? pixel * shape.W : 0;
    padding_ = params.layout.padded() ? params.layout.padded_segment - params.layout.segment : 0;
  }

  // `channels`: of the warp's first image; `bytes` of them are walked.
  __device__ __forceinline__ void begin(const uint8_t* channels, int32_t bytes) {
    tap_ = 0;
    left_ = bytes;
    at_ = channels + vector_byte(0);
#pragma unroll
    for (int p = 0; p < kAhead; ++p) load(p);
  }

  // Adds the dot products of this step; with `more`, loads of the next one are on their way.
  __device__ __forceinline__ void step(float (&gcol)[32], bool more) {
    const int32_t tap = tap_;
    if (kRagged && left_ < kChunkBytes) clear(gcol);
    float dot[2][4] = {};
#pragma unroll
    for (int p = 0; p < kPortions; ++p) {
      const int r = p / 2, block = p % 2;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        float own[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* from = gcol + 16 * block + 4 * (i / 2) + 2 * r + i % 2;
          own[i] = lane_ & 4 ? from[8 * (1 - v)] : from[8 * v];
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float4 pixel = pixel_[p % kAhead][k][v];
          dot[r][k] = fmaf(own[0], pixel.x, dot[r][k]);
          dot[r][k] = fmaf(own[1], pixel.y, dot[r][k]);
          dot[r][k] = fmaf(own[2], pixel.z, dot[r][k]);
          dot[r][k] = fmaf(own[3], pixel.w, dot[r][k]);
        }
      }
      if (p + kAhead == kPortions) advance();
      if (p + kAhead < kPortions || more) load((p + kAhead) % kPortions);
    }
    add(dot, tap);
  }

 private:
  static constexpr int kChunkBytes = kOgradChannels * 4;
  static constexpr int kPortions = 4;  // of a step: a row, 32 channels

  // Of the 32 channels' vector that is loaded as the v-th.
  __device__ __forceinline__ int32_t vector_byte(int v) const {
    return lane_ % 4 * 32 + (lane_ / 4 % 2 ^ v) * kVectorBytes;
  }
  __device__ __forceinline__ void advance() {
    if (++tap_ < work_.taps) return;
    tap_ = 0;
    left_ -= kChunkBytes;
    at_ += kChunkBytes;
  }

  __device__ __forceinline__ void load(int p) {
    const int r = p / 2, block = p % 2;
    const uint8_t* first = at_ + plan_->square[tap_][lane_ / 4 % 2 * 8 + lane_ / 8 + 4 * r];
    const uint8_t* second = first + (lane_ & 4 ? -kVectorBytes : kVectorBytes);
    const bool has_first = vector_byte(0) + kSliceBytes * block < left_;
    const bool has_second = vector_byte(1) + kSliceBytes * block < left_;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t corner = (k % 2 ? column_ : 0) + (k / 2 ? row_ : 0) + kSliceBytes * block;
      float4(&to)[2] = pixel_[p % kAhead][k];
      if (!kRagged || left_ >= kChunkBytes) {
        to[0] = __ldg(reinterpret_cast<const float4*>(first + corner));
        to[1] = __ldg(reinterpret_cast<const float4*>(second + corner));
      } else {
        to[0] = to[1] = {};
        if (has_first) to[0] = __ldg(reinterpret_cast<const float4*>(first + corner));
        if (has_second) to[1] = __ldg(reinterpret_cast<const float4*>(second + corner));
      }
    }
  }

  // Channels beyond the last: a product of 0 and what is not finite would be NaN.
  __device__ __forceinline__ void clear(float (&gcol)[32]) const {
    const int32_t channels = left_ / 4 - padding_;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int32_t channel = i / 16 * 32 + lane_ % 4 * 8 + i / 4 % 4 * 2 + i % 2;
      if (channel >= channels) gcol[i] = 0.f;
    }
  }

  // Lane q ends with the sums of row q / 2 of the lane's two, pixels 2 * (q % 2) and the next.
  __device__ __forceinline__ void add(const float (&dot)[2][4], int32_t tap) const {
    const int q = lane_ % 4;
    float row[4], own[2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float given = q & 2 ? dot[0][k] : dot[1][k];
      row[k] = (q & 2 ? dot[1][k] : dot[0][k]) + __shfl_xor_sync(~0u, given, 2);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float given = q & 1 ? row[i] : row[2 + i];
      own[i] = (q & 1 ? row[2 + i] : row[i]) + __shfl_xor_sync(~0u, given, 1);
    }
    float2* to = reinterpret_cast<float2*>(&plan_->sums[tap][lane_ / 4 + 8 * (q / 2)]) + q % 2;
    const float2 so_far = *to;
    *to = {so_far.x + own[0], so_far.y + own[1]};
  }

  const OgradWork& work_;  // in shared memory
  OgradPlan* const plan_;
  const int lane_;
  uint32_t column_, row_;  // bytes between the pixels of a square
  int32_t padding_;        // channels
  int32_t tap_, left_;
  const uint8_t* at_;
  float4 pixel_[kAhead][4][2];
};

}  // namespace dcn
