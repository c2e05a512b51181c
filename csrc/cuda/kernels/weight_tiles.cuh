// Packed weight tiles in shared memory: a ring of stages that bulk copies fill and warps release,
// or all tiles of a CTA at once where they fit. One thread asks for copies; every warp waits.
//
// start() waits for the kernel that packs the weight; what does not need it comes before.
// A step calls wait() for its tile, release_previous() once its warpgroup's multiplications of the
// step before have ended, and advance() last. Tiles are walked `passes` times, once for each tile
// of pixels.
#pragma once

#include "../../fprop_tiles.h"
#include "ptx_sm90.cuh"

namespace dcn {

template <int kTileBytes>
class ResidentWeights {
 public:
  __device__ __forceinline__ ResidentWeights(uint32_t shared, int32_t steps, int32_t, int thread)
      : tiles_(shared), arrived_(shared + steps * kTileBytes), tile_(shared), thread_(thread) {
    if (thread_ == 0) {
      ptx::barrier_init(arrived_, 1);
      ptx::barrier_init_fence();
    }
    __syncthreads();
  }

  // Where the shared memory of the tiles ends.
  __device__ __forceinline__ uint32_t end() const { return arrived_ + kBarrierBytes; }

  // The weight is packed in tiles of this size.
  __device__ __forceinline__ void start(const uint8_t* tiles, int32_t, int32_t) {
    if (thread_ != 0) return;
    ptx::wait_for_previous_grid();  // it packs the weight
    ptx::bulk_copy(tiles_, tiles, arrived_ - tiles_, arrived_);
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

 private:
  const uint32_t tiles_, arrived_;  // the barrier lies behind the last tile
  uint32_t tile_;
  const int thread_;
  bool here_ = false;
};

// What the thread that asks has asked for. It lies in shared memory: no other thread has a register
// to lose for it.
struct WeightRequests {
  const uint8_t* tiles;
  int32_t steps, next, left;      // of the tiles; left: over all passes
  int32_t pieces, steps_between;  // of a tile
};

// A tile may come in kPieces pieces, which lie `steps_between` steps apart in memory and have
// kParts parts each; a part of the tile is then made of that part of each piece.
template <int kTileBytes, int kStages, int kWarps, int kPieces, int kParts>
class WeightRing {
 public:
  __device__ __forceinline__ WeightRing(uint32_t shared, int32_t steps, int32_t passes, int thread)
      : tiles_(shared), thread_(thread) {
    if (thread_ == 0) {
      requests() = {nullptr, steps, 0, steps * passes, kPieces, 0};
      for (int i = 0; i < kStages; ++i) {
        ptx::barrier_init(full(i), 1);
        ptx::barrier_init(empty(i), kWarps);
      }
      ptx::barrier_init_fence();
    }
    __syncthreads();
  }

  __device__ __forceinline__ uint32_t end() const { return full(0) + kBarrierBytes; }

  // As many pieces as there are; the channels of others keep what the stage held.
  __device__ __forceinline__ void start(const uint8_t* tiles, int32_t pieces,
                                        int32_t steps_between) {
    if (thread_ != 0) return;
    requests().tiles = tiles;
    requests().pieces = pieces;
    requests().steps_between = steps_between;
    ptx::wait_for_previous_grid();  // it packs the weight
    for (int i = 0; i < kStages - 1; ++i) ask(i);
  }
  __device__ __forceinline__ uint32_t wait() {
    ptx::barrier_wait(full(stage_), phase_);
    return tiles_ + stage_ * kTileBytes;
  }

  // Lets go of the stage of the step before, and fills the one before that again: all warps have
  // left it, or soon will. (At the second step that is a stage never used, whose barrier lets
  // pass.)
  __device__ __forceinline__ void release_previous() {
    if (!started_ || thread_ % 32 != 0) return;
    const bool wrapped = stage_ == 0;
    const uint32_t previous = wrapped ? kStages - 1 : stage_ - 1;
    ptx::barrier_arrive(empty(previous));
    if (thread_ != 0) return;
    const uint32_t before = previous == 0 ? kStages - 1 : previous - 1;
    ptx::barrier_wait(empty(before), before > stage_ ? phase_ ^ 1u : phase_);
    ask(before);
  }
  __device__ __forceinline__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1u;
    }
    started_ = true;
  }

 private:
  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return tiles_ + kStages * kTileBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }
  static __device__ __forceinline__ WeightRequests& requests() {
    __shared__ WeightRequests requests;
    return requests;
  }

  __device__ __forceinline__ void ask(uint32_t stage) {
    WeightRequests now = requests();
    if (now.left == 0) return;
    if constexpr (kPieces == 1) {
      ptx::bulk_copy(tiles_ + stage * kTileBytes, now.tiles + int64_t{now.next} * kTileBytes,
                     kTileBytes, full(stage));
    } else {
      constexpr int kPieceBytes = kTileBytes / kPieces, kBytes = kPieceBytes / kParts;
      ptx::expect_bytes(full(stage), now.pieces * kPieceBytes);
      for (int piece = 0; piece < now.pieces; ++piece) {
        const uint8_t* from =
            now.tiles + (int64_t{piece} * now.steps_between + now.next) * kPieceBytes;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          ptx::bulk_copy_expected(tiles_ + stage * kTileBytes + (part * kPieces + piece) * kBytes,
                                  from + part * kBytes, kBytes, full(stage));
        }
      }
    }
    requests().next = now.next + 1 == now.steps ? 0 : now.next + 1;
    requests().left = now.left - 1;
  }

  const uint32_t tiles_;
  const int thread_;
  uint32_t stage_ = 0, phase_ = 0;
  bool started_ = false;
};

}  // namespace dcn
