// The end of a fused forward tile: sums of split tiles are exchanged, the bias is added, and each
// output value is stored once, in the output's memory format.
//
// The packed weight orders a tile's channels so that a lane ends with 8 consecutive ones: sums
// [16 * j + 4 * i + {0, 1}] are channels 32 * j + 8 * q + 2 * i + {0, 1} of row g, and those at + 2
// of row g + 8.
#pragma once

#include "fused_gather.cuh"
#include "ptx_sm80.cuh"

namespace dcn {

constexpr int kSumsPerStore = 16;      // 8 channels of 2 rows
constexpr int kChannelsPerStore = 32;  // of a quad

// The bias of the tile's channels, zeros where there is none; once per CTA.
template <class Config>
__device__ __forceinline__ void load_bias(const FpropParams& params, float* to, int32_t group,
                                          int32_t channel_tile) {
  const int32_t per_group = params.shape.output_channels_per_group();
  const auto* bias = static_cast<const typename Config::Math::Element*>(params.bias);
  for (int32_t i = threadIdx.x; i < Config::kTileChannels; i += Config::kThreads) {
    const int32_t k = channel_tile * Config::kTileChannels + i;
    to[i] = bias != nullptr && k < per_group ? widen(bias[group * per_group + k]) : 0.f;
  }
  __syncthreads();
}

// Where a lane's two rows go.
template <class Math>
class OutputTile {
 public:
  using Element = typename Math::Element;

  // `exchange`: kPlanBytes of shared memory of this warp.
  __device__ __forceinline__ OutputTile(const FpropParams& params, const float* bias,
                                        uint8_t* exchange, int32_t group, int32_t first_channel,
                                        const TileRow& row)
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
    whole_ = !params.nchw && (shape.K | per_group) % 8 == 0 &&
             reinterpret_cast<uintptr_t>(params.output) % 16 == 0;
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

  // NCHW, and channels that are no whole vectors: value by value, lanes along pixels.
  __device__ __forceinline__ void store_each(int32_t first, int32_t channels) const {
    __syncwarp();
    const int32_t row = threadIdx.x % kWarpPixels;
    const int64_t step = params_.nchw ? params_.shape.output_pixels_per_image() : 1;
    const int64_t origin = __shfl_sync(~0u, origin_, row);
#pragma unroll 1
    for (int32_t i = threadIdx.x / kWarpPixels & 1; i < channels; i += 2) {
      const float value = exchange_[i * kExchangeRow + row];
      if (origin >= 0) {
        narrow(value, static_cast<Element*>(params_.output)[origin + (first + i) * step]);
      }
    }
    __syncwarp();  // the next channels overwrite these
  }

  const FpropParams& params_;
  const float* bias_;  // of this lane's first channel
  float* exchange_;    // [32 channels][16 rows], rows padded
  int32_t first_, end_;
  int64_t origin_;  // element of channel 0 of row lane % 16, or -1
  bool whole_;
};

template <class Config>
__device__ __forceinline__ void store_tile(const OutputTile<typename Config::Math>& out,
                                           const float (&sums)[Config::kTileChannels / 2]) {
#pragma unroll
  for (int j = 0; j < Config::kTileChannels / kChannelsPerStore; ++j) {
    float own[kSumsPerStore];
#pragma unroll
    for (int i = 0; i < kSumsPerStore; ++i) own[i] = sums[j * kSumsPerStore + i];
    out.store(j, own);
  }
}

// split_k CTAs hold sums of this tile. Each draws a ticket: the first ones leave their sums in
// memory and go on, the last one adds them up, in the order of the parts (same bits each run), and
// stores. It waits for CTAs that have drawn a ticket before it, so are running and wait for nobody.
template <class Config>
__device__ __forceinline__ void store_split_tile(const FpropParams& params,
                                                 const OutputTile<typename Config::Math>& out,
                                                 const float (&sums)[Config::kTileChannels / 2],
                                                 int32_t part, int32_t tile) {
  constexpr int kStores = Config::kTileChannels / kChannelsPerStore;
  const int32_t parts = params.split_k;
  SplitTile* const shared_tile = params.split_tiles + tile;
  // [tile][ticket][store][4][thread]
  float4* const left_sums = reinterpret_cast<float4*>(params.partial) +
                            int64_t{tile} * (parts - 1) * kStores * 4 * Config::kThreads +
                            threadIdx.x;
  const auto left_by = [&](int32_t ticket, int j, int i) {
    return left_sums + ((int64_t{ticket} * kStores + j) * 4 + i) * Config::kThreads;
  };

  __shared__ int32_t drawn;
  __syncthreads();  // the ticket of the tile before has been read
  if (threadIdx.x == 0) {
    drawn = atomicAdd(&shared_tile->tickets, 1);
    if (drawn == parts - 1) {
      while (ptx::arrived_at(&shared_tile->left) < parts - 1) {
      }
    } else {
      shared_tile->part_of_ticket[drawn] = part;
    }
  }
  __syncthreads();
  const int32_t ticket = drawn;
  if (ticket < parts - 1) {
#pragma unroll
    for (int j = 0; j < kStores; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* from = sums + j * kSumsPerStore + 4 * i;
        __stcg(left_by(ticket, j, i), make_float4(from[0], from[1], from[2], from[3]));
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) ptx::arrive_at(&shared_tile->left);
    return;
  }
  int32_t ticket_of[kMostParts] = {};  // of a part; this CTA's own is not looked up
#pragma unroll
  for (int t = 0; t < kMostParts - 1; ++t) {
    const int32_t whose = t < parts - 1 ? __ldcg(shared_tile->part_of_ticket + t) : -1;
#pragma unroll
    for (int p = 0; p < kMostParts; ++p) ticket_of[p] = whose == p ? t : ticket_of[p];
  }
#pragma unroll
  for (int j = 0; j < kStores; ++j) {
    float total[kSumsPerStore] = {};
#pragma unroll
    for (int p = 0; p < kMostParts; ++p) {
      if (p >= parts) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* own = sums + j * kSumsPerStore + 4 * i;
        const float4 add = p == part ? make_float4(own[0], own[1], own[2], own[3])
                                     : __ldcg(left_by(ticket_of[p], j, i));
        total[4 * i] += add.x;
        total[4 * i + 1] += add.y;
        total[4 * i + 2] += add.z;
        total[4 * i + 3] += add.w;
      }
    }
    out.store(j, total);
  }
}

}  // namespace dcn
