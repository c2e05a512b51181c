// The end of a tile whose steps are split: among two sets of warps of a CTA, which take turns, and
// among the CTAs of a cluster. Each stores a share of the channels, and is given the others' sums
// of them: sets through their shared memory, CTAs by stores into the memory of the one that adds
// them up, where a barrier counts the bytes: nobody waits for a fence, or for a CTA that gives it
// nothing.
#pragma once

#include "../fprop/fprop_epilogue.cuh"
#include "../ptx_cluster.cuh"

namespace dcn {

// Two sets of warps hold sums of this tile. Each goes on with those of half of the stores, the
// first or the second, and adds up what both have of them. Nobody reads weights any more.
template <class Config>
__device__ __forceinline__ void add_turns(const float (&sums)[Config::kTileChannels / 2],
                                          float (&own)[Config::kTileChannels / 4], int set,
                                          uint32_t exchange) {
  constexpr int kOwn = Config::kTileChannels / 4, kSetThreads = Config::kThreads / 2;
  constexpr int kVectors = kOwn / 4, kStride = kSetThreads * 16;  // [set][vector][thread]
  static_assert(2 * kVectors * kStride <= Config::Weights::kBytes);
  const uint32_t thread = exchange + threadIdx.x % kSetThreads * 16;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float given[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) given[e] = set == 0 ? sums[kOwn + 4 * i + e] : sums[4 * i + e];
    ptx::store_sums(thread + (set * kVectors + i) * kStride,
                    make_float4(given[0], given[1], given[2], given[3]));
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const uint4 taken = ptx::load_shared(thread + ((set ^ 1) * kVectors + i) * kStride);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      own[4 * i + e] = (set == 0 ? sums[4 * i + e] : sums[kOwn + 4 * i + e]) +
                       __uint_as_float(register_of(taken, e));
    }
  }
}

// The stores of a tile that one of the CTAs of a split finishes.
struct OwnStores {
  int32_t first, end;
};

// Where a CTA is given sums, at the same place in each of a cluster, and the barrier for them.
struct SumExchange {
  uint32_t sums, arrived;
  uint32_t phase;  // of the barrier
};

// split_k CTAs, a cluster, hold sums of this tile. Each finishes some of its stores: it adds up the
// sums of all, in the order of the parts. All have arrived at the cluster's barrier when they
// needed the exchange's memory for nothing else any more. `first_store`: of `sums`.
template <class Config, int kSums>
__device__ __forceinline__ void store_split_tile(typename Config::Output& out,
                                                 const float (&sums)[kSums], int first_store,
                                                 int32_t parts, int32_t part,
                                                 const SumExchange& exchange) {
  constexpr int kStores = kSums / kSumsPerStore;
  constexpr int kStride = Config::kThreads * 16;  // [giver][store][4][thread]
  const int32_t each = kStores / parts, longer = kStores - each * parts;
  const auto stores_of = [&](int32_t p) -> OwnStores {
    const int32_t first = p * each + min(p, longer);
    return {first, first + each + (p < longer)};
  };
  // Of store j of those that `taker` finishes, as CTA `giver` has it.
  const auto place = [&](int32_t giver, int32_t taker, const OwnStores& finished, int j) {
    const int32_t before = (giver - (giver > taker)) * (finished.end - finished.first);
    return threadIdx.x * 16 + (before + j - finished.first) * 4 * kStride;
  };

  const OwnStores own = stores_of(part);
  const int32_t finished = own.end - own.first;
  if (threadIdx.x == 0 && finished > 0) {
    ptx::expect_bytes(exchange.arrived, (parts - 1) * finished * 4 * kStride);
  }
  ptx::cluster_wait();
#pragma unroll 1
  for (int32_t p = 0; p < parts; ++p) {
    if (p == part) continue;
    const OwnStores theirs = stores_of(p);
    const uint32_t to = ptx::cluster_address(exchange.sums, p),
                   arrived = ptx::cluster_address(exchange.arrived, p);
#pragma unroll
    for (int j = 0; j < kStores; ++j) {
      if (j < theirs.first || j >= theirs.end) continue;
      const uint32_t at = to + place(part, p, theirs, j);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* from = sums + j * kSumsPerStore + 4 * i;
        ptx::give(at + i * kStride, make_float4(from[0], from[1], from[2], from[3]), arrived);
      }
    }
  }
  if (finished == 0) return;
  ptx::wait_for_cluster(exchange.arrived, exchange.phase);
#pragma unroll
  for (int j = 0; j < kStores; ++j) {
    if (j < own.first || j >= own.end) continue;
    float total[kSumsPerStore] = {};
#pragma unroll 1
    for (int32_t p = 0; p < parts; ++p) {
      const uint32_t from = exchange.sums + place(p, part, own, j);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint4 given = {};
        if (p != part) given = ptx::load_shared(from + i * kStride);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float add = __uint_as_float(register_of(given, e));
          total[4 * i + e] += p == part ? sums[j * kSumsPerStore + 4 * i + e] : add;
        }
      }
    }
    out.store(first_store + j, total);
  }
}

}  // namespace dcn
