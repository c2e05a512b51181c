// Packed weight tiles in shared memory: a ring of stages that bulk copies fill and warps release,
// or all tiles of a CTA at once where they fit. One lane asks for copies; every warp waits.
//
// set_up() comes before start(); its fence waits for loads that are on their way. start() waits for
// the kernel that packs the weight; what does not need it comes before. A barrier of the CTA lies
// between start() and the first wait().
// A step calls release_previous() once its warpgroup's multiplications of the step before have
// ended, wait() for its tile and advance() last; there() says beforehand whether wait() need wait:
// the answer takes a while. Tiles are walked `passes` times, once for each tile of pixels.
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
  // `room`: tiles, as many as there are steps where several passes are made.
  __device__ __forceinline__ ResidentWeights(uint32_t shared, int32_t room, int thread)
      : tiles_(shared), arrived_(shared + room * kTileBytes), tile_(shared), thread_(thread) {}

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
  __device__ __forceinline__ bool there() const { return here_; }
  __device__ __forceinline__ uint32_t wait(bool there) {
    if (!there) ptx::barrier_wait(arrived_, 0);
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

// Every warp counts what has been asked for, in registers that are a warp's and not a lane's
// (of_warp). Were it known to the one that asks alone, in memory or a branch of its own, that one
// would be 300 clocks behind in each step, and hold up the warps that multiply with it.
template <int kTileBytes, int kParts, int kStages, int kWarps>
class WeightRing {
 public:
  static constexpr int kBytes = kStages * kTileBytes;

  __device__ __forceinline__ WeightRing(uint32_t shared, int32_t, int thread)
      : tiles_(ptx::of_warp(shared)), thread_(thread), warp_(ptx::of_warp(thread / 32)) {}

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
    source_ = source;
    first_ = source.tiles;
    left_ = ptx::of_warp(steps * passes);
    left_of_pass_ = steps_ = steps;
    if (warp_ == 0) ptx::wait_for_previous_grid();  // it packs the weight
#pragma unroll
    for (int i = 0; i < (kAsksAtOnce ? kStages : kStages - 1); ++i) {
      if (left_ > 0) ask(i);
    }
  }
  __device__ __forceinline__ bool there() const {
    return ptx::barrier_passes(full(stage_), phase());
  }
  __device__ __forceinline__ uint32_t wait(bool there) {
    if (!there) ptx::barrier_wait(full(stage_), phase());
    return tiles_ + stage_ * kTileBytes;
  }

  // Lets go of the stage of the step before, and fills the one before that again: all warps have
  // left it, or soon will. (At the second step that is a stage never used, whose barrier lets
  // pass.) Of two stages, the one of the step before itself: the warps of a warpgroup, which
  // multiply together, leave it at nearly the same time.
  __device__ __forceinline__ void release_previous() {
    if ((stage_ | round_) == 0) return;
    const uint32_t previous = stage_ == 0 ? kStages - 1 : stage_ - 1;
    if (ptx::elected()) ptx::barrier_arrive(empty(previous));
    if (left_ == 0) return;
    const uint32_t before = kAsksAtOnce ? previous : previous == 0 ? kStages - 1 : previous - 1;
    if (warp_ == 0) ptx::barrier_wait(empty(before), (round_ - (before > stage_)) & 1u);
    ask(before);
  }
  __device__ __forceinline__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      ++round_;
    }
  }

 protected:
  static constexpr bool kAsksAtOnce = kStages == 2;
  static_assert(kStages <= 8 && (kStages > 2 || (kAsksAtOnce && kWarps == 4)));

  __device__ __forceinline__ uint32_t phase() const { return round_ & 1u; }
  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return tiles_ + kStages * kTileBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }

  __device__ __forceinline__ void ask(uint32_t stage) {
    if (warp_ == 0 && ptx::elected()) {
      ptx::expect_bytes(full(stage), kParts * source_.bytes);
      copy_tile<kTileBytes, kParts>(source_, tiles_ + stage * kTileBytes, full(stage));
    }
    source_.tiles += source_.step_stride;
    --left_;
    if (--left_of_pass_ == 0) {
      source_.tiles = first_;
      left_of_pass_ = steps_;
    }
  }

  const uint32_t tiles_;
  const int thread_;
  const int warp_;                  // the first one asks
  WeightSource source_;             // of the tile that is asked for next
  const uint8_t* first_ = nullptr;  // tile
  int32_t left_ = 0, left_of_pass_ = 0, steps_ = 0;
  uint32_t stage_ = 0, round_ = 0;  // through the ring
};

}  // namespace dcn
