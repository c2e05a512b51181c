// The gradient columns of a tile of the scatter in 32 bits: grad x weight^T by mma.sync, a row of
// 16 output pixels a warp, all taps at once. A lane's vector of grad is, as it comes, its part of
// two fragments, and so is a vector of the packed weight. Both come by way of shared memory, so
// that a tile waits once for all that it reads.
#pragma once

#include <limits>

#include "../fused/fused_mma.cuh"
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

  // Of some taps and one block of channels. Whether this thread's are finite; it may be wrong about
  // huge ones.
  __device__ __forceinline__ bool run(int32_t first_tap, int32_t taps, int32_t block) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int lane = thread % 32, warp = thread / 32;
    const int32_t halves = params_.blocks.halves;
    const int32_t half_vectors = taps * weight_parts(Math::kKind) * 32;
    const int32_t room = (params_.places.image - params_.places.window) / kVectorBytes;
    const int32_t fitting = min(kStagedHalves, room / half_vectors);
    float sums[kScatterTaps][4] = {};
#pragma unroll 1
    for (int32_t first = 0; first < halves; first += fitting) {
      const int32_t count = min(fitting, halves - first);
      if (first > 0) __syncthreads();  // the halves before have been read
      copy_grad(thread, block, first, count);
      copy_weights(first_tap, taps, block, first, count);
      ptx::wait_for_copies();
      __syncthreads();
      const uint4* weight = reinterpret_cast<const uint4*>(shared_.window()) + lane;
      const uint4* staged = shared_.gradient() + thread;
#pragma unroll 1
      for (int32_t half = 0; half < count; ++half) {
        uint32_t a[8];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint4 vector = staged[r * kScatterThreads];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t bits = register_of(vector, i);
            a[2 * i + r] =
                Math::kKind == FusedMath::kTf32 ? round_to_tf32(__uint_as_float(bits)) : bits;
          }
        }
        multiply_taps(sums, a, weight);
        staged += 2 * kScatterThreads, weight += half_vectors;
      }
    }
    __syncthreads();  // the columns come where the gradient is
    const int32_t channels = tile_.block(params_, block).channels;
    if (channels < kBlockChannels) drop_padding(sums, channels, lane);
    store(sums, lane, warp);
    float squares = 0.f;
#pragma unroll
    for (int t = 0; t < kScatterTaps; ++t) {
      if (t >= taps) break;
#pragma unroll
      for (const float sum : sums[t]) squares = fmaf(sum, sum, squares);
    }
    return squares <= std::numeric_limits<float>::max();
  }

 private:
  // Of a thread's vectors of the gradient, two each.
  static constexpr int kStagedHalves = kScatterSamples * static_cast<int>(sizeof(Element)) *
                                       kBlockChannels / (2 * kScatterThreads * kVectorBytes);

  // Has this thread's vectors of some halves on their way to where columns will be.
  __device__ __forceinline__ void copy_grad(int thread, int32_t block, int32_t half,
                                            int32_t halves) const {
    const ConvShape& shape = params_.shape;
    constexpr int32_t kVectorChannels = kVectorBytes / sizeof(Element);
    const int32_t row_channels = params_.grad_layout.channels;
    const int32_t group_channels = params_.grad_layout.group_channels;
    const int32_t p = tile_.p + thread / 32, q = tile_.q + thread % 32 / 4;
    const int32_t first = (half * 4 + thread % 4) * kVectorChannels;
    const Element* const grad =
        static_cast<const Element*>(params_.grad) +
        (int64_t{tile_.n} * shape.output_pixels_per_image() + p * shape.Q + q) * row_channels +
        tile_.block(params_, block).group * group_channels + first;
    const uint32_t to = ptx::shared_address(shared_.gradient() + thread);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool exists = p < shape.P && q + 8 * r < shape.Q;
#pragma unroll
      for (int h = 0; h < kStagedHalves; ++h) {
        if (h >= halves) break;
        const int32_t channel = h * 4 * kVectorChannels;
        const bool copies = exists && first + channel < group_channels;
        const Element* const from = grad + 8 * r * row_channels + channel;
        ptx::copy_vector_or_zeros(to + (2 * h + r) * kScatterThreads * kVectorBytes,
                                  copies ? from : params_.grad, copies);
      }
    }
  }

  // Of some halves, by all threads.
  __device__ __forceinline__ void copy_weights(int32_t first_tap, int32_t taps, int32_t block,
                                               int32_t half, int32_t halves) const {
    constexpr int kTapVectors = weight_parts(Math::kKind) * 32;
    const int32_t all_taps = params_.shape.taps();
    const int64_t first =
        (int64_t{tile_.offset_group} * params_.blocks.count + block) * params_.blocks.halves + half;
    const uint4* const from =
        static_cast<const uint4*>(params_.weight) + (first * all_taps + first_tap) * kTapVectors;
    const uint32_t to = ptx::shared_address(shared_.window());
    const int32_t half_vectors = taps * kTapVectors;
    const auto copy = [&](int32_t begin, int32_t vectors, const uint4* source) {
#pragma unroll 1
      for (int32_t i = threadIdx.x; i < vectors; i += kScatterThreads) {
        ptx::copy_vector(to + (begin + i) * kVectorBytes, source + i);
      }
    };
    for (int32_t h = 0; h < halves; ++h) {
      copy(h * half_vectors, half_vectors, from + h * all_taps * kTapVectors);
    }
  }

  // sums[tap] += grad x the tap's weight. Where there are fewer taps, the sums of the others are of
  // no use.
  static __device__ __forceinline__ void multiply_taps(float (&sums)[kScatterTaps][4],
                                                       uint32_t (&a)[8], const uint4* weight) {
    if constexpr (weight_parts(Math::kKind) == 1) {
#pragma unroll
      for (int t = 0; t < kScatterTaps; ++t) {
        multiply_vector<Math>(sums[t], a, weight[t * 32]);
      }
    } else {
      // Tensor cores cut off what a sum cannot hold: these sums are short, small products first,
      // and added by additions that round.
      uint32_t trailing[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) split_tf32(a[i], a[i], trailing[i]);
#pragma unroll
      for (int t = 0; t < kScatterTaps; ++t) {
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

  // Products of zeros that pad with what is not finite do not count.
  static __device__ __forceinline__ void drop_padding(float (&sums)[kScatterTaps][4],
                                                      int32_t channels, int lane) {
#pragma unroll
    for (auto& tap : sums) {
#pragma unroll
      for (int i = 0; i < 4; ++i) tap[i] = 2 * (lane % 4) + i % 2 < channels ? tap[i] : 0.f;
    }
  }

  // A lane has channels 2 * (lane % 4) and the next one of two pixels.
  __device__ __forceinline__ void store(const float (&sums)[kScatterTaps][4], int lane,
                                        int warp) const {
#pragma unroll
    for (int t = 0; t < kScatterTaps; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float first = sums[t][2 * r], second = sums[t][2 * r + 1];
        const int32_t i = t * kScatterPixels + warp * kScatterColumns + lane / 4 + 8 * r;
        uint4* const vector = shared_.gradient() + lane % 4 / 2 * kScatterSamples + i;
        reinterpret_cast<float2*>(vector)[lane % 2] = {first, second};
      }
    }
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
