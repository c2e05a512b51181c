// Packed weight tiles on their way through shared memory: a ring of stages that bulk copies fill
// and warps release, or, with kStages = 0, all tiles of a CTA, copied once.
#pragma once

#include "ptx_sm90.cuh"

namespace dcn {

template <int kStages, int kTileBytes, int kWarps>
class WeightRing {
 public:
  static constexpr bool kResident = kStages == 0;
  static constexpr int kBarrierBytes = 256;
  static constexpr int bytes(int steps) {
    return kBarrierBytes + (kResident ? steps : kStages) * kTileBytes;
  }

  // `tiles` are walked `passes` times. One thread asks for them; all wait.
  __device__ __forceinline__ WeightRing(uint32_t shared, const void* tiles, int32_t steps,
                                        int64_t passes)
      : tiles_(shared), barriers_(shared + (kResident ? steps : kStages) * kTileBytes) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kBarriers; ++i) {
        ptx::barrier_init(full(i), 1);
        ptx::barrier_init(empty(i), kWarps);
      }
      ptx::barrier_init_fence();
    }
    __syncthreads();
    first_ = next_ = static_cast<const uint8_t*>(tiles);
    end_ = first_ + int64_t{steps} * kTileBytes;
    unasked_ = steps * passes;
    if (threadIdx.x == 0) {
      ptx::wait_for_previous_grid();  // which packs the weight
      const int ahead = kResident ? steps : kStages - 1;
      for (int i = 0; i < ahead && unasked_ > 0; ++i)
        ask(kResident ? 0 : i, tiles_ + i * kTileBytes);
    }
    // Every thread keeps count, whichever asks.
    if (threadIdx.x != 0) unasked_ -= kResident ? unasked_ : min(unasked_, int64_t{kStages - 1});
  }

  // The tile of this step, waited for.
  __device__ __forceinline__ uint32_t wait(int32_t step) {
    if constexpr (kResident) {
      if (!arrived_) ptx::barrier_wait(full(0), 0);
      arrived_ = true;
      return tiles_ + step * kTileBytes;
    }
    ptx::barrier_wait(full(now_.stage), now_.phase);
    return tiles_ + now_.stage * kTileBytes;
  }

  // This warp's multiplications with the previous tile have ended. The stage of the one before,
  // which every warp has released by now or soon will, is filled again.
  __device__ __forceinline__ void release_previous() {
    if constexpr (!kResident) {
      if ((threadIdx.x & 31) == 0) ptx::barrier_arrive(empty(last_.stage));
    }
  }

 private:
  struct Slot {
    uint32_t stage, phase;
  };
  static constexpr int kBarriers = kResident ? 1 : kStages;

  __device__ __forceinline__ uint32_t full(int i) const { return barriers_ + i * 8; }
  __device__ __forceinline__ uint32_t empty(int i) const { return barriers_ + 128 + i * 8; }

  uint32_t tiles_, barriers_;
  const uint8_t *first_, *next_, *end_;
  int64_t unasked_;
  Slot now_{0, 0}, last_{0, 0};
  bool arrived_ = false;
};

}  // namespace dcn
