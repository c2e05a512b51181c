// The ring in shared memory between the warps of f32's weight gradient: those that gather fill a
// stage with what a step multiplies, those that multiply empty it.
//
// wgmma takes tf32 operands along gemm_k only, pixels here, so that what is read as rows [pixel]
// [channel] lies in a stage as tiles [channel][pixels of the step], swizzled; for 3xTF32 as tiles
// of leading and of trailing parts. 32 rows of a tile are 32 channels permuted: row 8 * e + v is
// channel 4 * v + e, so that lanes that hold vectors v of four pixels store into 32 banks at once.
#pragma once

#include <algorithm>

#include "ptx_sm90.cuh"
#include "wgrad_segments.cuh"

namespace dcn {

template <class Math_, int kTile>
struct WgradF32Config : WgradConfig<Math_, kTile> {
  using Base = WgradConfig<Math_, kTile>;
  static constexpr bool kExactSums = Math_::kKind == FusedMath::k3xTf32;
  static constexpr int kMultiplyWarps = 8;
  static constexpr int kThreads = Base::kThreads + 32 * kMultiplyWarps;
  static constexpr int kBlocks = Base::kUnits / 4;  // of 64 rows, that a warpgroup multiplies

  static constexpr int kStages = 2;  // more would take what the gathers have of L1
  static constexpr int kParts = weight_parts(Math_::kKind);
  static constexpr int kValueBytes = Base::kUnits * 32 * kSliceBytes;  // of one part
  static constexpr int kGradBytes = Base::kChannels * kSliceBytes;
  static constexpr int kStageBytes = kParts * (kValueBytes + kGradBytes);
  static constexpr int kSharedBytes =
      kTileAlignment + kStages * kStageBytes + kBarrierBytes + Base::kWarps * Base::kPlanBytes;

  // Registers of a thread that multiplies, which takes what one that gathers gives up: 128 is what
  // both begin with.
  static constexpr int kAllSums = (kExactSums ? 2 : 1) * kBlocks * Base::kChannels / 2;
  static constexpr int kMultiplyRegisters = std::max(kAllSums + 32, 136);
  static constexpr int kGatherRegisters = 256 - kMultiplyRegisters;
};

// Of the step at hand. A stage has tiles of values, leading and trailing, then those of the
// gradient.
template <class Config>
class WgradF32Ring {
 public:
  __device__ __forceinline__ WgradF32Ring(uint32_t stages) : stages_(stages) {}
  static __device__ __forceinline__ void init(uint32_t stages) {
    const WgradF32Ring ring(stages);
    for (int i = 0; i < Config::kStages; ++i) {
      ptx::barrier_init(ring.full(i), Config::kWarps);
      ptx::barrier_init(ring.empty(i), Config::kMultiplyWarps);
    }
    ptx::barrier_init_fence();
  }

  __device__ __forceinline__ void wait_full() const { ptx::barrier_wait(full(index_), phase_); }
  __device__ __forceinline__ void wait_empty() const {
    ptx::barrier_wait(empty(index_), phase_ ^ 1u);
  }
  __device__ __forceinline__ uint32_t values() const {
    return stages_ + index_ * Config::kStageBytes;
  }
  __device__ __forceinline__ uint32_t grad() const {
    return values() + Config::kParts * Config::kValueBytes;
  }
  // This warp has filled or emptied the stage; on to the next one.
  __device__ __forceinline__ void leave_full(int lane) {
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(full(index_));
    advance();
  }
  __device__ __forceinline__ void leave_empty(int lane) {
    if (lane == 0) ptx::barrier_arrive(empty(index_));
    advance();
  }

 private:
  __device__ __forceinline__ void advance() {
    if (++index_ < Config::kStages) return;
    index_ = 0;
    phase_ ^= 1u;
  }
  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return stages_ + Config::kStages * Config::kStageBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }

  const uint32_t stages_;
  uint32_t index_ = 0, phase_ = 0;
};

}  // namespace dcn
