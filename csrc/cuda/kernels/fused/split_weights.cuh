// Packed weight tiles for 3xTF32, of which memory holds one part: threads write the other, the
// trailing parts, behind it, once the copy engine has brought it. That is for large weights: half
// the workspace and half the packing, but slower steps, since shared memory is what bounds them.
//
// split() is called by all warps, once before the first step and in each step that another one
// follows: behind advance(), when the multiplications of the step have been committed and nobody
// has anything else to do. All warps have a share of the tile, and wait() is for all of them.
#pragma once

#include "../layout/weight_tiles.cuh"
#include "fused_math.cuh"

namespace dcn {

// This thread's share of a tile of two parts.
template <int kTileBytes, int kThreads>
__device__ __forceinline__ void split_tile(uint32_t tile, int thread) {
  constexpr int kPartBytes = kTileBytes / 2, kVectors = kPartBytes / kVectorBytes;
  constexpr int kRounds = (kVectors + kThreads - 1) / kThreads;
  const auto exists = [&](int i) {
    return (i + 1) * kThreads <= kVectors || i * kThreads + thread < kVectors;
  };
  tile += thread * kVectorBytes;
  uint4 moved[kRounds];
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (exists(i)) moved[i] = ptx::load_shared(tile + i * kThreads * kVectorBytes);
  }
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (!exists(i)) continue;
    ptx::store_vector(tile + kPartBytes + i * kThreads * kVectorBytes,
                      {trailing_of(moved[i].x), trailing_of(moved[i].y), trailing_of(moved[i].z),
                       trailing_of(moved[i].w)});
  }
  ptx::async_proxy_fence();  // wgmma reads what is stored here
}

template <int kTileBytes, int kThreads>
class SplitResidentWeights : public ResidentWeights<kTileBytes, 1> {
  using Base = ResidentWeights<kTileBytes, 1>;

 public:
  using Base::Base;

  __device__ __forceinline__ void start(const WeightSource& source, int32_t steps, int32_t passes) {
    left_ = steps;
    Base::start(source, steps, passes);
  }
  __device__ __forceinline__ void split() {
    if (left_ == 0) return;
    --left_;
    split_tile<kTileBytes, kThreads>(Base::wait(Base::there()), this->thread_);
    meets_ = true;
  }
  __device__ __forceinline__ uint32_t wait(bool) {
    if (meets_) __syncthreads();
    meets_ = false;
    return this->tile_;
  }

 private:
  int32_t left_ = 0;  // tiles that are whole
  bool meets_ = false;
};

template <int kTileBytes, int kStages, int kWarps>
class SplitWeightRing : public WeightRing<kTileBytes, 1, kStages, kWarps> {
  using Base = WeightRing<kTileBytes, 1, kStages, kWarps>;

 public:
  __device__ __forceinline__ SplitWeightRing(uint32_t shared, int32_t room, int thread)
      : Base(shared, room, thread) {
    if (thread != 0) return;
    for (int i = 0; i < kStages; ++i) ptx::barrier_init(is_split(i), kWarps);
  }

  __device__ __forceinline__ void split() {
    split_tile<kTileBytes, 32 * kWarps>(Base::wait(false), this->thread_);
    __syncwarp();
    if (this->thread_ % 32 == 0) ptx::barrier_arrive(is_split(this->stage_));
  }
  __device__ __forceinline__ bool there() const {
    return ptx::barrier_passes(is_split(this->stage_), this->phase());
  }
  __device__ __forceinline__ uint32_t wait(bool there) {
    if (!there) ptx::barrier_wait(is_split(this->stage_), this->phase());
    return this->tiles_ + this->stage_ * kTileBytes;
  }

 private:
  __device__ __forceinline__ uint32_t is_split(uint32_t i) const {
    return this->full(0) + kBarrierBytes / 2 + i * 8;
  }
  static_assert(kStages <= 8);
};

}  // namespace dcn
