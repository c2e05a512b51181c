// The weight gradient of a tile of the scatter in 32 bits: grad^T x values by mma.sync, added to
// what the CTA has left of the tiles before. A warp has 16 output channels and half of the taps.
#pragma once

#include "../atomic_add.cuh"
#include "../fused/fused_mma.cuh"
#include "scatter_values.cuh"

namespace dcn {

// A vector's parts for the tensor cores; there is one, but for 3xTF32.
template <class Math, int kRegisters>
struct MmaParts {
  uint32_t leading[kRegisters];
  uint32_t trailing[weight_parts(Math::kKind) == 2 ? kRegisters : 1];

  __device__ __forceinline__ void set(int i, uint32_t bits) {
    if constexpr (weight_parts(Math::kKind) == 2) {
      split_tf32(bits, leading[i], trailing[i]);
    } else {
      leading[i] = bits;
    }
  }
};

// sums += 16 output channels x a tap's values.
template <class Math>
__device__ __forceinline__ void multiply_values(float (&sums)[4], const MmaParts<Math, 8>& a,
                                                const MmaParts<Math, 4>& b) {
  const auto multiply = [&](float* to, const uint32_t(&rows)[8], const uint32_t(&values)[4]) {
    multiply_vector<Math>(to, rows, uint4{values[0], values[1], values[2], values[3]});
  };
  if constexpr (weight_parts(Math::kKind) == 1) {
    multiply(sums, a.leading, b.leading);
  } else {
    // Tensor cores cut off what a sum cannot hold: these sums are short, small products first, and
    // added by additions that round.
    float part[4] = {};
    multiply(part, a.trailing, b.leading);
    multiply(part, a.leading, b.trailing);
    multiply(part, a.leading, b.leading);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += part[i];
  }
}

template <class Math>
class ScatterWgrad {
 public:
  using Element = typename Math::Element;
  using Values = ScatterValues<Element>;

  __device__ __forceinline__ ScatterWgrad(const ScatterParams& params, const ScatterTile& tile,
                                          const ScatterShared<Element>& shared, bool fresh)
      : params_(params), tile_(tile), shared_(shared), fresh_(fresh) {}

  // Of a block and a chunk of taps. The CTA's first tile of an offset group is `fresh`.
  __device__ __forceinline__ void run(int32_t chunk, int32_t taps, int32_t block) const {
    const ScatterBlock at = tile_.block(params_, block);
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int lane = thread % 32, strip = thread / 32 % kStrips, first = thread / 128 * kTaps;
    const int32_t channels = params_.shape.output_channels_per_group();
#pragma unroll 1
    for (int32_t panel = 0; panel < params_.work.panels; ++panel) {
      const int32_t row = panel * kPanelChannels + strip * kWarpPixels;
      if (row >= channels) return;
      const uint4* const grad =
          static_cast<const uint4*>(params_.transposed_grad) +
          ((int64_t{tile_.number} * params_.shape.G + at.group) * params_.work.rows() + row +
           lane / 4) *
              kRowVectors +
          lane % 4;
      float4* const left =
          reinterpret_cast<float4*>(params_.sums_of(blockIdx.x, tile_.offset_group,
                                                    params_.work.unit(block, chunk, panel))) +
          (strip * kScatterTaps + first) * 32 + lane;
      add(grad, left, first, min(kTaps, taps - first), lane);
    }
  }

 private:
  static constexpr int kStrips = kPanelChannels / kWarpPixels;
  static constexpr int kTaps = (kScatterTaps + 1) / 2;
  static_assert(kStrips * 2 * 32 == kScatterThreads);
  static constexpr int kRowVectors = kScatterPixels * sizeof(Element) / kVectorBytes;
  static constexpr int kParts = kRowVectors / 4;  // that a lane's vectors of a row are

  __device__ __forceinline__ void add(const uint4* grad, float4* left, int32_t first_tap,
                                      int32_t taps, int lane) const {
    float sums[kTaps][4] = {};
    // Loads of two parts are on their way together.
#pragma unroll 1
    for (int first = 0; first < kParts; first += 2) {
      uint4 row[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        row[i / 2][i % 2] = __ldg(grad + 8 * (i % 2) * kRowVectors + (first + i / 2) * 4);
      }
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        MmaParts<Math, 8> a;
#pragma unroll
        for (int i = 0; i < 8; ++i) a.set(i, register_of(row[part][i % 2], i / 2));
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          if (t >= taps) break;
          uint32_t value[4];
          Values::load(shared_.values(), first_tap + t, first + part, lane, value);
          MmaParts<Math, 4> b;
#pragma unroll
          for (int i = 0; i < 4; ++i) b.set(i, value[i]);
          multiply_values<Math>(sums[t], a, b);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (t >= taps) break;
      const Vector<float, 4> sum{{sums[t][0], sums[t][1], sums[t][2], sums[t][3]}};
      if (fresh_) {
        *reinterpret_cast<Vector<float, 4>*>(left + t * 32) = sum;
      } else {
        // No other thread adds to these: so they are added in order, and nobody waits for them.
        atomic_add(reinterpret_cast<float*>(left + t * 32), sum);
      }
    }
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const ScatterShared<Element>& shared_;
  const bool fresh_;
};

}  // namespace dcn
