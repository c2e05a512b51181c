// The gradient columns of a tile of the scatter: grad x weight^T by mma.sync, a row of 16 output
// pixels a warp, all taps at once. A lane's vector of grad is, as it was loaded, its part of two
// fragments, and so is a vector of the packed weight, which comes by way of the window's shared
// memory.
#pragma once

#include "fused_mma.cuh"
#include "scatter_shared.cuh"

namespace dcn {

template <class Math>
class ScatterColumns {
 public:
  using Element = typename Math::Element;
  using Shared = ScatterShared<Element>;

  __device__ __forceinline__ ScatterColumns(const ScatterParams& params, const ScatterTile& tile,
                                            const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {}

  // Of some taps and one block of channels.
  __device__ __forceinline__ void run(int32_t first_tap, int32_t taps, int32_t block,
                                      const ScatterBlock& at) const {
    const ConvShape& shape = params_.shape;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t vector_channels = kVectorBytes / sizeof(Element);
    const int32_t row_channels = params_.grad_layout.channels;
    const int32_t group_channels = params_.grad_layout.group_channels;
    const int32_t p = tile_.p + warp, q = tile_.q + lane / 4;
    const bool exists[2] = {p < shape.P && q < shape.Q, p < shape.P && q + 8 < shape.Q};
    const Element* const grad =
        static_cast<const Element*>(params_.grad) +
        (int64_t{tile_.n} * shape.output_pixels_per_image() + p * shape.Q + q) * row_channels +
        at.group * group_channels + lane % 4 * vector_channels;
    const auto load = [&](int32_t half, uint4(&vector)[2]) {
      const int32_t channel = half * 4 * vector_channels;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        vector[r] = {};
        if (exists[r] && channel + lane % 4 * vector_channels < group_channels) {
          vector[r] = __ldg(reinterpret_cast<const uint4*>(grad + 8 * r * row_channels + channel));
        }
      }
    };
    float sums[kScatterTaps][4] = {};
    uint4 vector[2];
    load(0, vector);
    const uint4* const weight = reinterpret_cast<const uint4*>(shared_.window) + lane;
    const int32_t half_vectors = taps * weight_parts(Math::kKind) * 32;
    const int32_t fitting = 2 * params_.window.pixels() / half_vectors;
#pragma unroll 1
    for (int32_t half = 0; half < params_.blocks.halves; ++half) {
      const int32_t place = half % fitting;
      if (place == 0) {
        if (half > 0) __syncthreads();  // the halves before have been read
        copy_weights(first_tap, taps, block, half, min(fitting, params_.blocks.halves - half));
      }
      uint32_t a[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        a[i] = register_of(vector[i % 2], i / 2);
        if (Math::kKind == FusedMath::kTf32) a[i] = round_to_tf32(__uint_as_float(a[i]));
      }
      if (half + 1 < params_.blocks.halves) load(half + 1, vector);
      // Mostly all of them.
      if (taps == kScatterTaps) {
        multiply_taps<true>(sums, a, weight + place * half_vectors, taps);
      } else {
        multiply_taps<false>(sums, a, weight + place * half_vectors, taps);
      }
    }
    if (taps == kScatterTaps && at.channels == kBlockChannels) {
      store<true>(sums, taps, at.channels);
    } else {
      store<false>(sums, taps, at.channels);
    }
  }

 private:
  // Of some halves, for all warps.
  __device__ __forceinline__ void copy_weights(int32_t first_tap, int32_t taps, int32_t block,
                                               int32_t half, int32_t halves) const {
    constexpr int kTapVectors = weight_parts(Math::kKind) * 32;
    const int32_t all_taps = params_.shape.taps();
    const int64_t first =
        (int64_t{tile_.offset_group} * params_.blocks.count + block) * params_.blocks.halves + half;
    const uint4* const from =
        static_cast<const uint4*>(params_.weight) + (first * all_taps + first_tap) * kTapVectors;
    const uint32_t to = ptx::shared_address(shared_.window);
    const int32_t half_vectors = taps * kTapVectors;
    for (int32_t i = threadIdx.x; i < halves * half_vectors; i += kScatterThreads) {
      const int32_t others = (all_taps - taps) * kTapVectors;  // of the chunk's half
      ptx::copy_vector(to + i * kVectorBytes,
                       from + i + (others == 0 ? 0 : i / half_vectors * others));
    }
    ptx::wait_for_copies();
    __syncthreads();
  }

  // sums[tap] += grad x the tap's weight.
  template <bool kAll>
  static __device__ __forceinline__ void multiply_taps(float (&sums)[kScatterTaps][4],
                                                       uint32_t (&a)[8], const uint4* weight,
                                                       int32_t taps) {
    if constexpr (weight_parts(Math::kKind) == 1) {
#pragma unroll
      for (int t = 0; t < kScatterTaps; ++t) {
        if (kAll || t < taps) multiply_vector<Math>(sums[t], a, weight[t * 32]);
      }
    } else {
      // Tensor cores cut off what a sum cannot hold: these sums are short, small products first,
      // and added by additions that round.
      uint32_t trailing[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) split_tf32(a[i], a[i], trailing[i]);
#pragma unroll
      for (int t = 0; t < kScatterTaps; ++t) {
        if (!kAll && t >= taps) break;
        const uint4 leading_weight = weight[2 * t * 32];
        float part[4] = {};
        multiply_vector<Math>(part, trailing, leading_weight);
        multiply_vector<Math>(part, a, weight[(2 * t + 1) * 32]);
        multiply_vector<Math>(part, a, leading_weight);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[t][i] += part[i];
      }
    }
  }

  // A lane has channels 2 * (lane % 4) and the next one of two pixels.
  template <bool kAll>
  __device__ __forceinline__ void store(const float (&sums)[kScatterTaps][4], int32_t taps,
                                        int32_t channels) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t channel = 2 * (lane % 4);
#pragma unroll
    for (int t = 0; t < kScatterTaps; ++t) {
      if (!kAll && t >= taps) break;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // Products of zeros that pad with what is not finite do not count.
        const float first = kAll || channel < channels ? sums[t][2 * r] : 0.f;
        const float second = kAll || channel + 1 < channels ? sums[t][2 * r + 1] : 0.f;
        const int32_t i = t * kScatterPixels + warp * kScatterColumns + lane / 4 + 8 * r;
        if constexpr (sizeof(Element) == 2) {
          reinterpret_cast<uint32_t*>(shared_.gradient + i)[lane % 4] = Math::pack(first, second);
        } else {
          uint4* const vector = shared_.gradient + lane % 4 / 2 * kScatterSamples + i;
          reinterpret_cast<float2*>(vector)[lane % 2] = {first, second};
        }
      }
    }
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
