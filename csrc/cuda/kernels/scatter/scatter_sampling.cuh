// What the samples of the scatter share, those of the core and the others. Two threads share an
// output pixel; they take turns with the taps.
#pragma once

#include "scatter_maps.cuh"
#include "scatter_position.cuh"
#include "scatter_values.cuh"

namespace dcn {

template <class Math>
class ScatterSampling {
 public:
  using Element = typename Math::Element;
  using Block = ChannelBlock<Element>;
  using Shared = ScatterShared<Element>;

  static constexpr int kTurns = kScatterThreads / kScatterPixels;
  static constexpr int kOffset = 1, kMask = 2, kInput = 4, kWeight = 8;  // gradients wanted

  __device__ __forceinline__ ScatterSampling(const ScatterParams& params, const ScatterTile& tile,
                                             const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {}

 protected:
  static constexpr uint32_t kNowhere = ~0u;
  static constexpr int kBinBits = 10;
  static_assert(kMostBins <= 1 << kBinBits);
  static constexpr int kVectors = Block::kVectors;

  // This thread's; its index is asked for anew, since what follows from it would take registers
  // elsewhere.
  struct Pixel {
    int32_t number, turn;  // in the tile; of the first tap
    OutputPixel at;
    bool exists;

    __device__ __forceinline__ Pixel(const ConvShape& shape, const ScatterTile& tile) {
      const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
      number = thread % kScatterPixels, turn = thread / kScatterPixels;
      at = {tile.n, tile.p + number / kScatterColumns, tile.q + number % kScatterColumns};
      exists = at.p < shape.P && at.q < shape.Q;
      if (!exists) at = {tile.n, tile.p, tile.q};
    }
    __device__ __forceinline__ int32_t sample(int32_t tap) const {
      return tap * kScatterPixels + number;
    }
  };
  __device__ __forceinline__ int32_t first_map(const Pixel& own, int32_t first_tap) const {
    return tile_.offset_group * params_.shape.taps() + first_tap + own.turn;
  }

  __device__ __forceinline__ int wanted() const {
    return (params_.grad_offset != nullptr ? kOffset : 0) |
           (params_.grad_mask != nullptr ? kMask : 0) |
           (params_.grad_input != nullptr ? kInput : 0) |
           (params_.partial != nullptr ? kWeight : 0);
  }
  __device__ __forceinline__ bool reads_image() const {
    return (wanted() & (kOffset | kMask | kWeight)) != 0;
  }
  __device__ __forceinline__ const Block* plane(int32_t block) const {
    return static_cast<const Block*>(params_.image) + tile_.plane(params_, block);
  }

  // dot[k] += a vector of the gradient x that of corner k.
  static __device__ __forceinline__ void add_dots(const float* gradient, const uint4 (&corner)[4],
                                                  float (&dot)[4]) {
    constexpr int kChannels = Shared::kVectorChannels;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const auto& of_corner = reinterpret_cast<const Vector<Element, kChannels>&>(corner[k]);
        dot[k] = fmaf(gradient[c], widen(of_corner.lane[c]), dot[k]);
      }
    }
  }

  static __device__ __forceinline__ uint4 value_weights(float ly, float lx, float mask) {
    const WindowWeights weights = window_weights({0, 0, ly, lx}, mask);
    const float* const w = weights.weight;
    return Math::weights({w[0], w[1], w[2], w[3]});
  }
  __device__ __forceinline__ void store_value(int32_t i, int vector, const uint4 (&corner)[4],
                                              uint4 weight) const {
    uint32_t value[4];
    Math::mix(corner, weight, value);
    ScatterValues<Element>::store(shared_.values(), i / kScatterPixels, i % kScatterPixels, vector,
                                  value);
  }

  // Into a bin: which of its samples this is.
  __device__ __forceinline__ uint32_t count(int32_t bin) const {
    return atomicAdd(shared_.lists() + bin, 1u);
  }
  __device__ __forceinline__ void set_landed(int32_t i, int32_t bin, uint32_t rank) const {
    shared_.landed()[i] = bin | rank << kBinBits;
  }
  __device__ __forceinline__ void place(int32_t i, float ly, float lx, float mask) const {
    shared_.place()[i].set(ly, lx, mask);
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
