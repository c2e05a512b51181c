// The end of a tile whose steps are split: among two sets of warps of a CTA, which take turns, and
// among the CTAs of a cluster. They exchange their sums through shared memory, and each stores a
// share of the channels.
#pragma once

#include "../fprop/fprop_epilogue.cuh"
#include "../ptx_sm90.cuh"

namespace dcn {

// Two sets of warps hold sums of this tile. Each goes on with those of half of the stores, the
// first or the second, and adds up what both have of them.
template <class Config>
__device__ __forceinline__ void add_turns(const float (&sums)[Config::kTileChannels / 2],
                                          float (&own)[Config::kTileChannels / 4], int set,
                                          uint32_t exchange) {
  constexpr int kOwn = Config::kTileChannels / 4, kSetThreads = Config::kThreads / 2;
  constexpr int kVectors = kOwn / 4, kStride = kSetThreads * 16;  // [set][vector][thread]
  static_assert(2 * kVectors * kStride <= Config::Weights::kBytes);
  const uint32_t thread = exchange + threadIdx.x % kSetThreads * 16;
  __syncthreads();  // nobody reads weights any more
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

// split_k CTAs, a cluster, hold sums of this tile. Each finishes some of its stores: it adds up the
// sums of all, in the order of the parts, from the others' shared memory, where every CTA has put
// what it does not finish itself: at `exchange`, where its weights were. `first_store`: of `sums`.
template <class Config, int kSums>
__device__ __forceinline__ void store_split_tile(typename Config::Output& out,
                                                 const float (&sums)[kSums], int first_store,
                                                 int32_t parts, int32_t part, uint32_t exchange) {
  constexpr int kStores = kSums / kSumsPerStore;
  constexpr int kStride = Config::kThreads * 16;  // [store][4][thread]
  // Whose loads are on their way together, as registers allow it.
  constexpr int kPartsAtOnce = Config::kThreads > 256 ? 2 : 4;
  const int32_t each = kStores / parts, longer = kStores - each * parts;
  const auto stores_of = [&](int32_t p) -> OwnStores {
    const int32_t first = p * each + min(p, longer);
    return {first, first + each + (p < longer)};
  };
  exchange += threadIdx.x * 16;
  // Of a store that CTA p has put there.
  const auto place = [&](const OwnStores& finished, int j) {
    const int32_t before = j < finished.end ? 0 : finished.end - finished.first;
    return exchange + (j - before) * 4 * kStride;
  };

  const OwnStores own = stores_of(part);
  __syncthreads();  // nobody reads weights any more
#pragma unroll
  for (int j = 0; j < kStores; ++j) {
    if (j >= own.first && j < own.end) continue;
    const uint32_t to = place(own, j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* from = sums + j * kSumsPerStore + 4 * i;
      ptx::store_sums(to + i * kStride, make_float4(from[0], from[1], from[2], from[3]));
    }
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
#pragma unroll
  for (int j = 0; j < kStores; ++j) {
    if (j < own.first || j >= own.end) continue;
    float total[kSumsPerStore] = {};
#pragma unroll 1
    for (int32_t first = 0; first < parts; first += kPartsAtOnce) {
      float4 add[kPartsAtOnce][4];
#pragma unroll
      for (int p = 0; p < kPartsAtOnce; ++p) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* mine = sums + j * kSumsPerStore + 4 * i;
          add[p][i] = make_float4(mine[0], mine[1], mine[2], mine[3]);
        }
        const int32_t other = first + p;
        if (other == part || other >= parts) continue;
        const uint32_t from = ptx::cluster_address(place(stores_of(other), j), other);
#pragma unroll
        for (int i = 0; i < 4; ++i) add[p][i] = ptx::load_of_cluster(from + i * kStride);
      }
#pragma unroll
      for (int p = 0; p < kPartsAtOnce; ++p) {
        if (first + p == parts) break;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[4 * i] += add[p][i].x;
          total[4 * i + 1] += add[p][i].y;
          total[4 * i + 2] += add[p][i].z;
          total[4 * i + 3] += add[p][i].w;
        }
      }
    }
    // Before the last store, for which the others need not wait.
    if (j == own.end - 1) ptx::cluster_arrive();
    out.store(first_store + j, total);
  }
  if (own.first == own.end) ptx::cluster_arrive();
  ptx::cluster_wait();  // the others have read
}

}  // namespace dcn
