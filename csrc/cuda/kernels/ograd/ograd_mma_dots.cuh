// The dot products of 16-bit gradients and pixels, on the tensor cores: no value is widened, and
// sums over a lane's neighbours need no exchange.
//
// A warp multiplies its 16 rows of gcol, rounded to the pixels' type, by 8 columns at a time: the
// four pixels of the squares of two rows, a pair. Only those two rows' products with their own
// squares are kept, an eighth of all; still it takes a third of the instructions of additions and
// conversions. The sums of gcol lie in registers as fragments of A do, and with the weight's order
// of channels a lane's vector of a pixel is, as it was loaded, two fragments of B.
//
// Lane (g, q) loads pixel g % 4 of the square of row 2 * pair + g / 4. Odd pixels come with the
// other half slice first: two pixels of a quad then read different halves of their lines, which
// the L1 serves at once.
#pragma once

#include <type_traits>

#include "../ptx_sm80.cuh"
#include "ograd_samples.cuh"

namespace dcn {

template <class Math, int kAhead, bool kRagged>
class MmaDots {
 public:
  __device__ __forceinline__ MmaDots(const OgradParams& params, const OgradWork& work,
                                     OgradPlan* plan, int lane)
      : work_(work), plan_(plan), lane_(lane) {
    const ConvShape& shape = params.shape;
    const uint32_t pixel = params.layout.channels * kElementBytes;
    const int corner = lane_ / 4 % 4;
    corner_byte_ =
        (shape.W > 1 ? corner % 2 * pixel : 0u) + (shape.H > 1 ? corner / 2 * pixel * shape.W : 0u);
    padding_ = params.layout.padded() ? params.layout.padded_segment - params.layout.segment : 0;
  }

  // `channels`: of the warp's first image; `bytes` of them are walked.
  __device__ __forceinline__ void begin(const uint8_t* channels, int32_t bytes) {
    tap_ = 0;
    left_ = bytes;
    chunk_ = channels + corner_byte_;
    locate();
    load(0, 0);
    if constexpr (kAhead == 8) load(1, 0);
  }

  // Adds the dot products of this step; with `more`, loads of the next one are on their way.
  __device__ __forceinline__ void step(float (&gcol)[32], bool more) {
    const int32_t tap = tap_, left = left_;
    if (kRagged && left < kSliceBytes) clear(gcol, left);
    uint32_t a[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) a[i] = Math::pack(gcol[2 * i], gcol[2 * i + 1]);
    const bool odd = lane_ & 4;
    float sums[2][4][4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int first = kAhead == 8 ? 4 * h : 0;
      if (kRagged && left < kSliceBytes) clear_pixels(first, left);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4(&vector)[2] = pixel_[first + j];
          const uint4 &as_is = vector[t / 2], &swapped = vector[1 - t / 2];
          const int k = t % 2 * 2;
          const uint32_t b0 = odd ? register_of(swapped, k) : register_of(as_is, k);
          const uint32_t b1 = odd ? register_of(swapped, k + 1) : register_of(as_is, k + 1);
          Mma::mma(sums[h][j], a + 4 * t, b0, b1);
        }
      }
      if (kAhead == 4 && h == 0) {
        load(1, tap);
      } else {
        if (h == (kAhead == 4 ? 1 : 0)) advance();
        if (more) load(kAhead == 4 ? 0 : h, tap_);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) add(sums[h], h, tap);
  }

 private:
  static constexpr int kElementBytes = 2;
  using Mma = std::conditional_t<Math::kKind == FusedMath::kF16, ptx::MmaF16, ptx::MmaBF16>;

  __device__ __forceinline__ int32_t vector_byte(int i) const {
    const int32_t first = lane_ % 4 * kVectorBytes + (lane_ & 4) * 16;
    return i == 0 ? first : first ^ (kSliceBytes / 2);
  }
  // A lane without a vector reads the chunk's first instead.
  __device__ __forceinline__ void locate() {
    const int32_t first = !kRagged || vector_byte(0) < left_ ? vector_byte(0) : 0;
    at_ = chunk_ + first;
    second_ = (!kRagged || vector_byte(1) < left_ ? vector_byte(1) : 0) - first;
  }
  __device__ __forceinline__ void advance() {
    if (++tap_ < work_.taps) return;
    tap_ = 0;
    left_ -= kSliceBytes;
    if constexpr (kRagged) {
      chunk_ += kSliceBytes;
      locate();
    } else {
      at_ += kSliceBytes;
    }
  }

  // Pairs 4 * h to 4 * h + 3.
  __device__ __forceinline__ void load(int h, int32_t tap) {
    const uint4 squares = reinterpret_cast<const uint4*>(plan_->square[tap])[lane_ / 16 * 2 + h];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint8_t* from = at_ + register_of(squares, j);
      uint4(&to)[2] = pixel_[(kAhead == 8 ? 4 * h : 0) + j];
      to[0] = __ldg(reinterpret_cast<const uint4*>(from));
      to[1] = __ldg(reinterpret_cast<const uint4*>(from + second_));
    }
  }

  // Channels beyond the last: a product of 0 and what is not finite would be NaN.
  __device__ __forceinline__ void clear(float (&gcol)[32], int32_t left) const {
    const int32_t channels = left / kElementBytes - padding_;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int32_t channel = i / 16 * 32 + lane_ % 4 * 8 + i / 4 % 4 * 2 + i % 2;
      if (channel >= channels) gcol[i] = 0.f;
    }
  }
  __device__ __forceinline__ void clear_pixels(int first, int32_t left) {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      if (vector_byte(v) < left) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) pixel_[first + j][v] = {};
    }
  }

  // Row g + 8 * h of the warp is in pair 4 * h + g / 2; half of the lanes hold its sums.
  __device__ __forceinline__ void add(const float (&sums)[4][4], int h, int32_t tap) const {
    const int g = lane_ / 4, q = lane_ % 4;
    float own[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = g & 2 ? sums[1][2 * h + i] : sums[0][2 * h + i];
      const float high = g & 2 ? sums[3][2 * h + i] : sums[2][2 * h + i];
      own[i] = g & 4 ? high : low;
    }
    if (q / 2 != g % 2) return;
    float2* to = reinterpret_cast<float2*>(&plan_->sums[tap][8 * h + g]) + q % 2;
    const float2 so_far = *to;
    *to = {so_far.x + own[0], so_far.y + own[1]};
  }

  const OgradWork& work_;  // in shared memory
  OgradPlan* const plan_;
  const int lane_;
  uint32_t corner_byte_;
  int32_t padding_;             // channels
  int32_t tap_, left_;          // left: bytes from the chunk on
  const uint8_t *chunk_, *at_;  // at: this lane's first vector
  int32_t second_;              // bytes to its second one
  uint4 pixel_[kAhead][2];
};

}  // namespace dcn
