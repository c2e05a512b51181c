// Packed weight tiles in shared memory: a ring of stages that bulk copies fill and warps release,
// or all tiles of a CTA at once where they fit. One thread asks for copies; every warp waits.
//
// set_up() comes before start(); its fence waits for loads that are on their way. start() waits for
// the kernel that packs the weight; what does not need it comes before. A barrier of the CTA lies
// between start() and the first wait().
// A step calls wait() for its tile, release_previous() once its warpgroup's multiplications of the
// step before have ended, and advance() last. Tiles are walked `passes` times, once for each tile
// of pixels.
#pragma once

#include "../../../fprop_tiles.h"
#include "../ptx_sm90.cuh"

namespace dcn {

// Where a CTA's tiles are in memory: `bytes` of each part of a step.
struct WeightSource {
  const uint8_t* tiles;  // of the first step
  uint32_t bytes, part_stride, step_stride;
};

// The first step's parts, each to its place in a tile; fewer bytes than it has leave the rest as it
// was.
template <int kTileBytes, int kParts>
__device__ __forceinline__ void copy_tile(const WeightSource& source, uint32_t to,
                                          uint32_t barrier) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    ptx::bulk_copy_expected(to + part * (kTileBytes / kParts),
                            source.tiles + part * source.part_stride, source.bytes, barrier);
  }
}

template <int kTileBytes, int kParts>
class ResidentWeights {
 public:
  __device__ __forceinline__ ResidentWeights(uint32_t shared, int32_t steps, int thread)
      : tiles_(shared), arrived_(shared + steps * kTileBytes), tile_(shared), thread_(thread) {}

  __device__ __forceinline__ void set_up() {
    if (thread_ != 0) return;
    ptx::barrier_init(arrived_, 1);
    ptx::barrier_init_fence();
  }

  // Where the shared memory of the tiles ends.
  __device__ __forceinline__ uint32_t end() const { return arrived_ + kBarrierBytes; }

  __device__ __forceinline__ void start(WeightSource source, int32_t steps, int32_t) {
    if (thread_ != 0) return;
    ptx::wait_for_previous_grid();  // it packs the weight
    ptx::expect_bytes(arrived_, steps * kParts * source.bytes);
    for (int32_t i = 0; i < steps; ++i) {
      copy_tile<kTileBytes, kParts>(source, tiles_ + i * kTileBytes, arrived_);
      source.tiles += source.step_stride;
    }
  }
  __device__ __forceinline__ uint32_t wait() {
    if (!here_) ptx::barrier_wait(arrived_, 0);
    here_ = true;
    return tile_;
  }
  __device__ __forceinline__ void release_previous() {}
  __device__ __forceinline__ void advance() {
    tile_ += kTileBytes;
    if (tile_ == arrived_) tile_ = tiles_;
  }

 protected:
  const uint32_t tiles_, arrived_;  // the barrier lies behind the last tile
  uint32_t tile_;
  const int thread_;
  bool here_ = false;
};

// What the thread that asks is going to ask for. It lies in shared memory, two vectors: no other
// thread has a register to lose for it.
struct WeightRequests {
  WeightSource source;                              // its tiles: from the next one on
  int32_t left, left_of_pass;                       // tiles
  int32_t steps;                                    // of a pass
  static constexpr uint32_t kFixed = kVectorBytes;  // the second vector begins there

  static __device__ __forceinline__ WeightRequests load(uint32_t from) {
    const uint4 next = ptx::load_shared(from), fixed = ptx::load_shared(from + kFixed);
    const auto address = static_cast<uint64_t>(next.y) << 32 | next.x;
    return {{reinterpret_cast<const uint8_t*>(address), fixed.x, fixed.y, fixed.z},
            static_cast<int32_t>(next.z),
            static_cast<int32_t>(next.w),
            static_cast<int32_t>(fixed.w)};
  }
  __device__ __forceinline__ void store_next(uint32_t to) const {
    const auto address = reinterpret_cast<uint64_t>(source.tiles);
    ptx::store_vector(to, {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32),
                           static_cast<uint32_t>(left), static_cast<uint32_t>(left_of_pass)});
  }
  __device__ __forceinline__ void store_fixed(uint32_t to) const {
    ptx::store_vector(to + kFixed, {source.bytes, source.part_stride, source.step_stride,
                                    static_cast<uint32_t>(steps)});
  }
};

template <int kTileBytes, int kParts, int kStages, int kWarps>
class WeightRing {
 public:
  static constexpr int kBytes = kStages * kTileBytes;

  __device__ __forceinline__ WeightRing(uint32_t shared, int32_t, int thread)
      : tiles_(shared), thread_(thread) {}

  __device__ __forceinline__ void set_up() {
    if (thread_ != 0) return;
    for (int i = 0; i < kStages; ++i) {
      ptx::barrier_init(full(i), 1);
      ptx::barrier_init(empty(i), kWarps);
    }
    ptx::barrier_init_fence();
  }

  __device__ __forceinline__ uint32_t end() const { return full(0) + kBarrierBytes; }

  __device__ __forceinline__ void start(const WeightSource& source, int32_t steps, int32_t passes) {
    if (thread_ != 0) return;
    WeightRequests requests{source, steps * passes, steps, steps};
    requests.store_fixed(at_requests());
    ptx::wait_for_previous_grid();  // it packs the weight
    for (int i = 0; i < (kAsksAtOnce ? kStages : kStages - 1); ++i) ask(i, requests);
  }
  __device__ __forceinline__ uint32_t wait() {
    ptx::barrier_wait(full(stage_), phase_);
    return tiles_ + stage_ * kTileBytes;
  }

  // Lets go of the stage of the step before, and fills the one before that again: all warps have
  // left it, or soon will. (At the second step that is a stage never used, whose barrier lets
  // pass.) Of two stages, the one of the step before itself: the warps of a warpgroup, which
  // multiply together, leave it at nearly the same time.
  __device__ __forceinline__ void release_previous() {
    if (!started_ || thread_ % 32 != 0) return;
    const bool wrapped = stage_ == 0;
    const uint32_t previous = wrapped ? kStages - 1 : stage_ - 1;
    ptx::barrier_arrive(empty(previous));
    if (thread_ != 0) return;
    const uint32_t before = kAsksAtOnce ? previous : previous == 0 ? kStages - 1 : previous - 1;
    WeightRequests requests = WeightRequests::load(at_requests());  // while the barrier is asked
    ptx::barrier_wait(empty(before), before > stage_ ? phase_ ^ 1u : phase_);
    ask(before, requests);
  }
  __device__ __forceinline__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1u;
    }
    started_ = true;
  }

 protected:
  static constexpr bool kAsksAtOnce = kStages == 2;
  static_assert(kStages > 2 || (kAsksAtOnce && kWarps == 4));

  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return tiles_ + kStages * kTileBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }
  __device__ __forceinline__ uint32_t at_requests() const { return full(0) + kBarrierBytes / 2; }

  __device__ __forceinline__ void ask(uint32_t stage, WeightRequests& requests) {
    if (requests.left == 0) return;
    WeightSource& source = requests.source;
    ptx::expect_bytes(full(stage), kParts * source.bytes);
    copy_tile<kTileBytes, kParts>(source, tiles_ + stage * kTileBytes, full(stage));
    source.tiles += source.step_stride;
    --requests.left;
    if (--requests.left_of_pass == 0) {
      source.tiles -= int64_t{requests.steps} * source.step_stride;
      requests.left_of_pass = requests.steps;
    }
    requests.store_next(at_requests());
  }

  const uint32_t tiles_;
  const int thread_;
  uint32_t stage_ = 0, phase_ = 0;
  bool started_ = false;
};

}  // namespace dcn
