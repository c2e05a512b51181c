// As order_bins, for fewer bins than most: by the first warps, in two steps, which have one barrier
// between them and leave the other warps alone. Bins are ordered by classes.
#pragma once

#include "scatter_lists.cuh"
#include "scatter_shared.cuh"

namespace dcn {

// A bin's class is its pixel's number modulo 4: lanes that add to pixels of different classes meet
// different banks. A class has fewer than 256 bins, so that numbers of all are counted in a word.
constexpr int kBinClasses = 4;

struct OrderedClasses {
  uint32_t counts;  // a byte each
  int32_t most;     // of a class
  bool long_lists;  // there are

  static __device__ __forceinline__ uint32_t of(uint32_t counts, uint32_t bin_class) {
    return __byte_perm(counts, 0, 0x4440 | bin_class);
  }
};

template <typename Element, int kBins, int kColumns>
class ScatterOrder {
 public:
  using Shared = ScatterShared<Element>;

  // For whole warps that have bins, the first ones.
  static constexpr int kThreads = padded_bins(kBins) / kThreadBins;
  static constexpr int kWarps = (kThreads + 31) / 32;
  static_assert(kWarps * 32 < kScatterThreads);
  // A thread's bins are of one row, and so one of each class.
  static_assert(kThreadBins == kBinClasses && kColumns % kBinClasses == 0);
  // [kBinClasses][kClassBins] of order.
  static constexpr int kClassBins = kBins / kBinClasses;
  static_assert(kBins % kBinClasses == 0 && kClassBins < 256);

  // [kLengths], of bins that have been ordered: behind the lists, where the image was.
  static __device__ __forceinline__ uint32_t* ranks(const Shared& shared) {
    return reinterpret_cast<uint32_t*>(shared.order() + padded_bins(kBins));
  }

  __device__ __forceinline__ explicit ScatterOrder(const Shared& shared) : shared_(shared) {}

  // Numbers of samples become lists, in any order; `listed` is how many samples have a list by now.
  __device__ __forceinline__ void lay(uint32_t* listed) {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x)), lane = thread % 32;
    auto* const own = reinterpret_cast<FourBins*>(shared_.lists()) + thread;
    if (thread < kThreads) count_ = *own;
    uint32_t before = 0;
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) {
      before += count_.bin[i];
      if (count_.bin[i] > 0) {
        atomicAdd(&shared_.lengths()[place_of(count_.bin[i])], one_of(class_of(thread, i)));
      }
    }
    const uint32_t of_thread = before;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, before, step);
      before += lane >= step ? other : 0;
    }
    uint32_t first = 0;
    if (lane == 31) first = atomicAdd(listed, before);
    before += __shfl_sync(~0u, first, 31) - of_thread;
    if (thread >= kThreads) return;
    FourBins list;
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) {
      list.bin[i] = BinList::packed(before, count_.bin[i]);
      before += count_.bin[i];
    }
    *own = list;
  }

  // Behind a barrier. Longest bins first, roughly; to be read behind another one.
  __device__ __forceinline__ void order(OrderedClasses& ordered) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x)), lane = thread % 32;
    const uint32_t of_length = shared_.lengths()[lane];
    uint32_t first = of_length;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, first, step);
      first += lane >= step ? other : 0;
    }
    if (thread == 0) ordered.long_lists = of_length > 0;
    if (thread == 31) {
      ordered.counts = first;
      uint32_t most = 0;
#pragma unroll
      for (int c = 0; c < kBinClasses; ++c) most = max(most, OrderedClasses::of(first, c));
      ordered.most = static_cast<int32_t>(most);
    }
    first -= of_length;
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) {
      const uint32_t length = place_of(count_.bin[i]), bin_class = class_of(thread, i);
      const uint32_t before = __shfl_sync(~0u, first, length % kLengths);
      if (count_.bin[i] == 0) continue;
      const uint32_t rank = atomicAdd(&ranks(shared_)[length], one_of(bin_class));
      shared_.order()[bin_class * kClassBins + OrderedClasses::of(before + rank, bin_class)] =
          static_cast<uint16_t>(thread * kThreadBins + i);
    }
  }

 private:
  static __device__ __forceinline__ uint32_t place_of(uint32_t samples) {
    return kLengths - min(samples, uint32_t{kLengths});
  }
  // Of the i-th bin of a thread.
  static __device__ __forceinline__ uint32_t class_of(int thread, int i) {
    return (i + thread / (kColumns / kThreadBins)) % kBinClasses;
  }
  static __device__ __forceinline__ uint32_t one_of(uint32_t bin_class) {
    return 1u << 8 * bin_class;
  }

  const Shared& shared_;
  FourBins count_ = {};
};

}  // namespace dcn
