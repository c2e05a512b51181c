// The end of a fused forward tile: the bias is added, and each output value is stored once, in the
// output's memory format.
//
// The packed weight orders a tile's channels so that a lane ends with 8 consecutive ones: sums
// [16 * j + 4 * i + {0, 1}] are channels 32 * j + 8 * q + 2 * i + {0, 1} of row g, and those at + 2
// of row g + 8.
#pragma once

#include <type_traits>

#include "../fused/fused_gather.cuh"
#include "../ptx_sm80.cuh"

namespace dcn {

constexpr int kSumsPerStore = 16;  // of a lane: 8 channels of 2 rows

// The bias of the tile's channels, zeros where there is none, a thread's each: asked for, loaded
// and put into shared memory, once per CTA, with other work between; a barrier follows.
template <class Config>
class TileBias {
 public:
  __device__ __forceinline__ TileBias(const FpropParams& params, int32_t group,
                                      int32_t channel_tile) {
    static_assert(Config::kTileChannels <= Config::kThreads);
    const int32_t per_group = params.shape.output_channels_per_group();
    const int32_t k = channel_tile * Config::kTileChannels + threadIdx.x;
    if (params.bias == nullptr || threadIdx.x >= Config::kTileChannels || k >= per_group) return;
    from_ = static_cast<const Element*>(params.bias) + group * per_group + k;
  }
  __device__ __forceinline__ void prefetch() const {
    if (from_ != nullptr) ptx::prefetch(from_);
  }
  // As it is in memory: store() is where it is waited for.
  __device__ __forceinline__ uint32_t load() const {
    using Bits = std::conditional_t<sizeof(Element) == 2, uint16_t, uint32_t>;
    return from_ != nullptr ? *reinterpret_cast<const Bits*>(from_) : 0;
  }
  static __device__ __forceinline__ void store(uint32_t loaded, float* to) {
    ptx::take(loaded);
    float value = __uint_as_float(loaded);
    if constexpr (sizeof(Element) == 2) value = Config::Math::wide(loaded);
    if (threadIdx.x < Config::kTileChannels) to[threadIdx.x] = value;
  }

 private:
  using Element = typename Config::Math::Element;
  const Element* from_ = nullptr;
};

// Where a lane's two rows go.
template <class Math>
class OutputTile {
 public:
  using Element = typename Math::Element;

  // `exchange`: kExchangeBytes of shared memory of this warp. `run_rows`: of the tile's rows, so
  // many are side by side in the output, but for those of two lines of it.
  __device__ __forceinline__ OutputTile(const FpropParams& params, const float* bias,
                                        uint8_t* exchange, int32_t group, int32_t first_channel,
                                        const TileRow& row, uint32_t run_rows)
      : params_(params),
        bias_(bias + 8 * (threadIdx.x & 3)),
        exchange_(reinterpret_cast<float*>(exchange)) {
    const ConvShape& shape = params.shape;
    const int32_t per_group = shape.output_channels_per_group();
    first_ = group * per_group + first_channel;
    end_ = (group + 1) * per_group;
    const int64_t in_image = int64_t{row.at.p} * shape.Q + row.at.q;
    const int64_t image = int64_t{row.at.n} * shape.output_pixels_per_image();
    origin_ = params.nchw ? image * shape.K + in_image : (image + in_image) * shape.K;
    if (!row.exists) origin_ = -1;
    const auto address = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(params.output));
    whole_ = !params.nchw && (shape.K | per_group) % 8 == 0 && address % 16 == 0;
    // Whole lines of such vectors: none is of two lines.
    const uint32_t multiple =
        shape.Q * uint32_t{sizeof(Element)} | address | run_rows * uint32_t{sizeof(Element)} | 16;
    vector_pixels_ = params.nchw ? (multiple & (0 - multiple)) / sizeof(Element) : 1;
  }

  // Channels of store j: bias, rounding, memory.
  __device__ __forceinline__ void store(int j, const float (&sums)[kSumsPerStore]) const {
    const int lane = threadIdx.x & 31;
    const float4* bias = reinterpret_cast<const float4*>(bias_ + j * kChannelsPerStore);
    const float4 low = bias[0], high = bias[1];
    const float add[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const int32_t first = first_ + j * kChannelsPerStore;
    if (!whole_) __syncwarp();  // the plan that `exchange_` overwrites has been read
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t origin = __shfl_sync(~0u, origin_, lane / 4 + 8 * r);
      float value[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] = sums[4 * (i / 2) + 2 * r + i % 2] + add[i];
      const int32_t channel = first + 8 * (lane & 3);
      if (!whole_) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          exchange_[(8 * (lane & 3) + i) * kExchangeRow + lane / 4 + 8 * r] = value[i];
        }
      } else if (origin >= 0 && channel < end_) {
        store_vector(static_cast<Element*>(params_.output) + origin + channel, value);
      }
    }
    if (!whole_ && first < end_) store_each(first, min(end_ - first, kChannelsPerStore));
  }

  // Behind all stores of a tile.
  template <class RowOf>
  __device__ __forceinline__ void end(RowOf) const {}

 protected:
  const FpropParams& params_;
  const float* bias_;  // of this lane's first channel
  int64_t origin_;     // element of channel 0 of row lane % 16, or -1

 private:
  static constexpr int kExchangeRow = kWarpPixels + 1;

  static __device__ __forceinline__ void store_vector(Element* to, const float (&value)[8]) {
    if constexpr (sizeof(Element) == 2) {
      *reinterpret_cast<uint4*>(to) = {
          Math::pack(value[0], value[1]), Math::pack(value[2], value[3]),
          Math::pack(value[4], value[5]), Math::pack(value[6], value[7])};
    } else {
      *reinterpret_cast<float4*>(to) = {value[0], value[1], value[2], value[3]};
      *reinterpret_cast<float4*>(to + 4) = {value[4], value[5], value[6], value[7]};
    }
  }

  // NCHW, and channels that are no whole vectors: lanes along pixels.
  __device__ __forceinline__ void store_each(int32_t first, int32_t channels) const {
    __syncwarp();
    if (vector_pixels_ == 16 / sizeof(Element)) {
      store_pixels<16 / sizeof(Element)>(first, channels);
    } else if (vector_pixels_ == 4) {
      store_pixels<4>(first, channels);
    } else if (vector_pixels_ == 2) {
      store_pixels<2>(first, channels);
    } else {
      store_pixels<1>(first, channels);
    }
    __syncwarp();  // the next channels overwrite these
  }
  template <int kPixels>
  __device__ __forceinline__ void store_pixels(int32_t first, int32_t channels) const {
    constexpr int kLanes = kWarpPixels / kPixels;  // of a channel
    const int32_t row = threadIdx.x % kLanes * kPixels;
    const int64_t step = params_.nchw ? params_.shape.output_pixels_per_image() : 1;
    const int64_t origin = __shfl_sync(~0u, origin_, row);
#pragma unroll 1
    for (int32_t i = threadIdx.x % 32 / kLanes; i < channels; i += 32 / kLanes) {
      Vector<Element, kPixels> value;
#pragma unroll
      for (int e = 0; e < kPixels; ++e) {
        narrow(exchange_[i * kExchangeRow + row + e], value.lane[e]);
      }
      if (origin < 0) continue;
      Element* const to = static_cast<Element*>(params_.output) + origin + (first + i) * step;
      *reinterpret_cast<Vector<Element, kPixels>*>(to) = value;
    }
  }

  float* exchange_;  // [32 channels][16 rows], rows padded
  int32_t first_, end_;
  bool whole_;
  uint32_t vector_pixels_;  // that a lane stores at once
};

template <class Output, int kSums>
__device__ __forceinline__ void store_tile(Output& out, const float (&sums)[kSums],
                                           int first_store) {
#pragma unroll
  for (int j = 0; j < kSums / kSumsPerStore; ++j) {
    float own[kSumsPerStore];
#pragma unroll
    for (int i = 0; i < kSumsPerStore; ++i) own[i] = sums[j * kSumsPerStore + i];
    out.store(first_store + j, own);
  }
}

}  // namespace dcn
