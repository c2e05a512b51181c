// Packed weight tiles on their way through shared memory without a copy engine: a ring of stages,
// half a step each, that every thread helps to fill (cp.async).
//
// A thread asks for a stage kStages - 2 halves ahead; that stage held the half before the previous
// one, so warps may be about a step apart before one waits for another. For each half a warp calls
// ask(), then wait() for its tile, and release() when its multiplications have read it. The
// halves are walked again and again, once for each tile of pixels; finish() waits for the copies
// that nobody reads any more.
#pragma once

#include "../../../fprop_tiles.h"
#include "../ptx_sm80.cuh"

namespace dcn {

template <int kBytes, int kStages, int kThreads>
class WeightCopies {
 public:
  // `shared`: kStages * kBytes, then kBarrierBytes. `weight` has two halves a step.
  __device__ __forceinline__ WeightCopies(uint8_t* shared, const uint8_t* weight, int32_t steps,
                                          int thread)
      : stages_(shared),
        base_(ptx::shared_address(shared)),
        source_(weight + thread * kVectorBytes),
        steps_(steps),
        thread_(thread) {
    static_assert(kStages > 2 && kBytes % (kThreads * kVectorBytes) == 0);
    static_assert(2 * kStages * 8 <= kBarrierBytes);
    if (thread == 0) {
      for (int i = 0; i < kStages; ++i) {
        ptx::barrier_init(full(i), kThreads);
        ptx::barrier_init(empty(i), kThreads / 32);
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) copy(i);
  }

  __device__ __forceinline__ void ask() {
    const bool wraps = stage_ >= 2;
    const uint32_t ahead = wraps ? stage_ - 2 : stage_ + kAhead;
    // A stage that was never used lets pass.
    ptx::barrier_poll(empty(ahead), wraps ? phase_ : phase_ ^ 1u);
    copy(ahead);
  }
  __device__ __forceinline__ const uint8_t* wait() const {
    ptx::barrier_poll(full(stage_), phase_);
    return stages_ + stage_ * kBytes;
  }
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (thread_ % 32 == 0) ptx::barrier_arrive(empty(stage_));
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1u;
    }
  }
  __device__ __forceinline__ void finish() const { ptx::wait_for_copies(); }

 private:
  static constexpr int kAhead = kStages - 2;

  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return base_ + kStages * kBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const {
    return full(i) + kBarrierBytes / 2;
  }

  __device__ __forceinline__ void copy(uint32_t stage) {
    const uint8_t* from = source_ + int64_t{next_} * kBytes;
    const uint32_t to = base_ + stage * kBytes + thread_ * kVectorBytes;
#pragma unroll
    for (int i = 0; i < kBytes; i += kThreads * kVectorBytes) ptx::copy_vector(to + i, from + i);
    ptx::barrier_arrive_after_copies(full(stage));
    if (++next_ / 2 == steps_) next_ = 0;
  }

  const uint8_t* const stages_;
  const uint32_t base_;
  const uint8_t* const source_;  // of this thread's vectors
  const uint32_t steps_;
  uint32_t next_ = 0;
  const int thread_;
  uint32_t stage_ = 0, phase_ = 0;
};

}  // namespace dcn
