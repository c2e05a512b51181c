// The walk of the usual scatter: as ScatterWalk's, but bins are ordered by classes, so that lanes
// that add to the window at the same time never meet the same banks: the eight lanes that shared
// memory serves together have two bins of each class, and take the halves of a pixel's sums in
// turn. A sample is read while the one before is added.
#pragma once

#include "../../../bilinear.h"
#include "scatter_order.cuh"

namespace dcn {

template <class Math, int kColumns>
class UsualWalk {
 public:
  using Element = typename Math::Element;
  using Shared = ScatterShared<Element>;

  __device__ __forceinline__ explicit UsualWalk(const Shared& shared) : shared_(shared) {}

  // For all threads of the CTA, which have met since the window was cleared.
  template <int kClassBins>
  __device__ __forceinline__ void run(const OrderedClasses& bins) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int lane = thread % 32, warp = thread / 32, bin_class = lane % kBinClasses;
    constexpr int kWarpEntries = 32 / kBinClasses, kWarps = kScatterThreads / 32;
    const bool swapped = lane / kBinClasses % 2 != 0;
    // Long lists, which take a whole warp each, are shared out among the warps.
    int entry = bins.long_lists ? lane / kBinClasses * kWarps + warp
                                : warp * kWarpEntries + lane / kBinClasses;
    const int count = static_cast<int>(OrderedClasses::of(bins.counts, bin_class));
#pragma unroll 1
    for (int32_t first = 0; first < bins.most; first += kWarps * kWarpEntries) {
      const bool has_bin = entry < count;
      const uint32_t bin = has_bin ? shared_.order()[bin_class * kClassBins + entry] : 0;
      const BinList list(has_bin ? shared_.lists()[bin] : 0);
      entry += kWarps * kWarpEntries;
      float sums[4][kBlockChannels] = {};
      const uint32_t light_end = min(list.end, list.begin + kHeavyList);
      add_light(list.begin, light_end, swapped, sums);
      add_heavy(light_end, list.end, sums);
      const uint32_t pixel = bin + bin / kColumns;  // the window has a column more than bins
      float4* const low = shared_.window() + 2 * pixel + swapped;
      float4* const high = shared_.window() + 2 * pixel + !swapped;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        // No two bins have the same pixel for the same corner.
        if (first > 0 || k > 0) __syncthreads();
        if (!has_bin) continue;
        const int32_t step = 2 * Sample<float>::corner_step(k, kColumns + 1);
        add(low[step], sums[k]);
        add(high[step], sums[k] + 4);
      }
    }
  }

 private:
  struct Loaded {
    ScatterPlace<Element> place;
    uint2 gradient[2];
  };

  static __device__ __forceinline__ void add(float4& to, const float* part) {
    const float4 so_far = to;
    to = {so_far.x + part[0], so_far.y + part[1], so_far.z + part[2], so_far.w + part[3]};
  }

  // The halves of the gradient in turn.
  __device__ __forceinline__ Loaded load(uint32_t sample, bool swapped) const {
    const auto* const gradient = reinterpret_cast<const uint2*>(shared_.gradient()) + 2 * sample;
    return {shared_.place()[sample], {gradient[swapped], gradient[!swapped]}};
  }
  static __device__ __forceinline__ void unpack(const Loaded& loaded, float (&weight)[4],
                                                float (&gradient)[kBlockChannels]) {
    const WindowWeights weights =
        window_weights({0, 0, loaded.place.ly(), loaded.place.lx()}, loaded.place.mask);
#pragma unroll
    for (int k = 0; k < 4; ++k) weight[k] = weights.weight[k];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float2 first = Math::wide_pair(loaded.gradient[h].x),
                   second = Math::wide_pair(loaded.gradient[h].y);
      gradient[4 * h] = first.x, gradient[4 * h + 1] = first.y;
      gradient[4 * h + 2] = second.x, gradient[4 * h + 3] = second.y;
    }
  }

  __device__ __forceinline__ void add_light(uint32_t begin, uint32_t end, bool swapped,
                                            float (&sums)[4][kBlockChannels]) const {
    if (begin >= end) return;
    const uint16_t* const list = shared_.list();
    // Behind the last sample, the first one is read again.
    Loaded next = load(list[begin], swapped);
    uint32_t sample = list[begin + 1 < end ? begin + 1 : begin];
#pragma unroll 1
    for (uint32_t i = begin; i < end; ++i) {
      const Loaded loaded = next;
      next = load(sample, swapped);
      sample = list[i + 2 < end ? i + 2 : begin];
      float weight[4], gradient[kBlockChannels];
      unpack(loaded, weight, gradient);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int c = 0; c < kBlockChannels; ++c) {
          sums[k][c] = fmaf(weight[k], gradient[c], sums[k][c]);
        }
      }
    }
  }

  // What is left of the lists of a warp's bins; a corner at a time, for want of registers.
  __device__ __forceinline__ void add_heavy(uint32_t begin, uint32_t end,
                                            float (&sums)[4][kBlockChannels]) const {
    const int lane = threadIdx.x % 32;
    uint32_t heavy = __ballot_sync(~0u, begin < end);
#pragma unroll 1
    for (; heavy != 0; heavy &= heavy - 1) {
      const int whose = __ffs(static_cast<int>(heavy)) - 1;
      const bool swapped = whose / kBinClasses % 2 != 0;
      const uint32_t from = __shfl_sync(~0u, begin, whose), to = __shfl_sync(~0u, end, whose);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float part[kBlockChannels] = {};
#pragma unroll 1
        for (uint32_t i = from + lane; i < to; i += 32) {
          float weight[4], gradient[kBlockChannels];
          unpack(load(shared_.list()[i], swapped), weight, gradient);
#pragma unroll
          for (int c = 0; c < kBlockChannels; ++c) {
            part[c] = fmaf(weight[k], gradient[c], part[c]);
          }
        }
#pragma unroll
        for (int c = 0; c < kBlockChannels; ++c) {
#pragma unroll
          for (int step = 16; step > 0; step /= 2) {
            part[c] += __shfl_xor_sync(~0u, part[c], step);
          }
          if (lane == whose) sums[k][c] += part[c];
        }
      }
    }
  }

  const Shared& shared_;
};

}  // namespace dcn
