// The lists of a tile's samples by bin: where each begins, and which bins are alike in length.
#pragma once

#include "../../../scatter_tiles.h"

namespace dcn {

// A thread has so many bins; the one behind the last begins where the last list ends.
constexpr int kThreadBins = 4;
static_assert(kMostBins < kThreadBins * kScatterThreads);

struct alignas(16) FourBins {
  uint32_t bin[kThreadBins];
};

DCN_HOST_DEVICE constexpr int padded_bins(int bins) {
  return (bins / kThreadBins + 1) * kThreadBins;
}

// A list with more samples is heavy: the rest of it is walked by a warp.
constexpr uint32_t kHeavyList = 48;

constexpr int kLengths = 32;  // of lists, that are told apart

// A bin's list, from its length in the upper half of a word and where it begins in the lower one.
struct BinList {
  uint32_t begin, end;

  static __device__ __forceinline__ uint32_t packed(uint32_t begin, uint32_t length) {
    return begin | length << 16;
  }
  static __device__ __forceinline__ uint32_t begin_of(uint32_t packed) { return packed & 0xffffu; }
  explicit __device__ __forceinline__ BinList(uint32_t packed)
      : begin(begin_of(packed)), end(begin + (packed >> 16)) {}
};

// Those that have samples.
struct OrderedBins {
  int32_t count;
  bool long_lists;  // there are
};

// `lists`: numbers of samples at first, then BinList. `order`: of the bins that have
// samples, the longest first, roughly. `places`: zeros. For all threads of the CTA.
__device__ __forceinline__ OrderedBins order_bins(uint32_t* lists, uint16_t* order,
                                                  uint32_t* places, int32_t bins) {
  __shared__ uint32_t warp_samples[kScatterThreads / 32];
  __shared__ OrderedBins ordered;
  const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
  const int lane = thread % 32, warp = thread / 32;
  auto* const own = reinterpret_cast<FourBins*>(lists) + thread;
  const bool has_bins = thread * kThreadBins < padded_bins(bins);
  const FourBins count = has_bins ? *own : FourBins{};
  const auto place_of = [&](uint32_t samples) -> uint32_t& {
    return places[kLengths - min(samples, uint32_t{kLengths})];
  };
  uint32_t before = 0;
#pragma unroll
  for (const uint32_t samples : count.bin) {
    before += samples;
    if (samples > 0) atomicAdd(&place_of(samples), 1u);
  }
  const uint32_t of_thread = before;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, before, step);
    before += lane >= step ? other : 0;
  }
  if (lane == 31) warp_samples[warp] = before;
  before -= of_thread;
  __syncthreads();

  for (int w = 0; w < warp; ++w) before += warp_samples[w];
  if (has_bins) {
    FourBins list;
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) {
      list.bin[i] = BinList::packed(before, count.bin[i]);
      before += count.bin[i];
    }
    *own = list;
  }
  if (warp == 0) {
    uint32_t first = places[lane];
    const uint32_t of_length = first;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, first, step);
      first += lane >= step ? other : 0;
    }
    places[lane] = first - of_length;
    if (lane == 0) ordered.long_lists = of_length > 0;
    if (lane == 31) ordered.count = first;
  }
  __syncthreads();

#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) {
    if (count.bin[i] == 0) continue;
    order[atomicAdd(&place_of(count.bin[i]), 1u)] = static_cast<uint16_t>(thread * kThreadBins + i);
  }
  __syncthreads();
  return ordered;
}

}  // namespace dcn
