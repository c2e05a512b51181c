// The rings in shared memory between the warps of f32's weight gradient: those that gather fill
// stages with what a step multiplies, those that multiply empty them.
//
//   values    tiles [channel][pixels of the step], swizzled, B of the multiplication: wgmma takes
//             tf32 operands along gemm_k only. For 3xTF32 tiles of leading and of trailing parts.
//             Row 8 * e + v of a unit is its channel 4 * v + e, so that lanes that hold vectors v
//             store side by side into all banks
//   gradient  as it lies in memory, [pixel][channel], in panels of 32 channels: fragments of A are
//             loaded from there
#pragma once

#include <algorithm>

#include "../ptx_sm90.cuh"
#include "wgrad_segments.cuh"

namespace dcn {

// `kSlices_`: units that follow one another and share their samples, slices of a tap.
template <class Math_, int kTile, int kSlices_>
struct WgradF32Config : WgradConfig<Math_, kTile> {
  using Base = WgradConfig<Math_, kTile>;
  static constexpr int kSlices = kSlices_;
  static constexpr bool kExactSums = Math_::kKind == FusedMath::k3xTf32;
  static constexpr int kParts = weight_parts(Math_::kKind);
  static constexpr int kTaps = Base::kUnits / kSlices;  // of the tile
  static constexpr int kPlanPixels = Base::kStepPixels / (Base::kWarps / kTaps);
  static constexpr int kPlannedSteps = 2 * (32 / kPlanPixels);
  static constexpr int kPlanBytes = kPlannedSteps * sizeof(StepPlan<kPlanPixels>);
  static constexpr int kGatherWarps = tiles_of(Base::kWarps, 4) * 4;  // whole warpgroups
  // Two warpgroups share the output channels of the tile. Where these are few, gathers take the
  // most, and one warpgroup leaves them its registers. Of a warpgroup: blocks of 64 channels.
  static constexpr int kMultiplyWarps = Base::kChannels > 64 ? 8 : 4;
  static constexpr int kThreads = 32 * (kGatherWarps + kMultiplyWarps);
  static constexpr int kBlocks = Base::kChannels / 64 / (kMultiplyWarps / 4);
  static constexpr int kColumns = Base::kUnits * Base::kSliceChannels;

  static constexpr int kStages = 2;  // of values; more would take what the gathers have of L1
  static constexpr int kGradStages = 3;
  static constexpr int kUnitBytes = Base::kSliceChannels * kSliceBytes;
  static constexpr int kValueBytes = Base::kUnits * kUnitBytes;  // of one part
  static constexpr int kStageBytes = kParts * kValueBytes;
  static constexpr int kPanelBytes = Base::kStepPixels * kSliceBytes;
  static constexpr int kSharedBytes = kTileAlignment + kStages * kStageBytes +
                                      kGradStages * Base::kGradTileBytes + kBarrierBytes +
                                      Base::kWarps * kPlanBytes;

  // Registers of a thread: what both kinds begin with, and what they share these as.
  static constexpr int kFirstRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kSums = kBlocks * kColumns / 2;
  // Parts of a step, for whose fragments of A there are registers, and how many they are of a
  // block; parts of the columns, for whose sums there are registers beside the totals.
  static constexpr int kStepParts = kBlocks == 1 ? 2 : 4;
  static constexpr int kFragments = 16 / kStepParts;
  static constexpr int kColumnParts = kExactSums ? kColumns / 64 : kColumns > 128 ? 2 : 1;
  static constexpr int kOtherRegisters = kExactSums && kColumns == 128 ? 24 : 32;
  static constexpr int kMultiplyRegisters = ((kExactSums ? kSums / kColumnParts : 0) + kSums +
                                             kBlocks * kFragments * kParts + kOtherRegisters) /
                                            8 * 8;
  static constexpr int kGatherRegisters =
      std::min((kThreads * kFirstRegisters - 32 * kMultiplyWarps * kMultiplyRegisters) /
                   (32 * kGatherWarps) / 8 * 8,
               160);
};

// Stages that are filled and emptied in turn, and where this thread is among them. The thread that
// initialises says how many arrivals each takes.
template <int kStages>
class StageRing {
 public:
  __device__ __forceinline__ explicit StageRing(uint32_t barriers) : barriers_(barriers) {}
  __device__ __forceinline__ void init(uint32_t fill_arrivals, uint32_t empty_arrivals) const {
    for (int i = 0; i < kStages; ++i) {
      ptx::barrier_init(barriers_ + i * 8, fill_arrivals);
      ptx::barrier_init(barriers_ + (kStages + i) * 8, empty_arrivals);
    }
  }
  __device__ __forceinline__ uint32_t index() const { return index_; }
  __device__ __forceinline__ uint32_t full() const { return barriers_ + index_ * 8; }
  __device__ __forceinline__ uint32_t empty() const { return full() + kStages * 8; }
  __device__ __forceinline__ void wait_full() const { ptx::barrier_wait(full(), phase_); }
  __device__ __forceinline__ void wait_empty() const { ptx::barrier_wait(empty(), phase_ ^ 1u); }
  __device__ __forceinline__ void advance() {
    if (++index_ < kStages) return;
    index_ = 0;
    phase_ ^= 1u;
  }

 private:
  const uint32_t barriers_;
  uint32_t index_ = 0, phase_ = 0;
};

template <class Config>
struct WgradF32Rings {
  StageRing<Config::kStages> values;
  StageRing<Config::kGradStages> grad;

  // `stages`: where the stages of values begin, then those of the gradient and the barriers.
  __device__ __forceinline__ explicit WgradF32Rings(uint32_t stages)
      : values(barriers(stages)), grad(barriers(stages) + kBarrierBytes / 2), stages_(stages) {}
  __device__ __forceinline__ void init() const {
    values.init(Config::kWarps, Config::kMultiplyWarps);
    grad.init(32 * Config::kWarps, Config::kMultiplyWarps);  // copies arrive for each thread
    ptx::barrier_init_fence();
  }
  __device__ __forceinline__ uint32_t value_tile() const {
    return stages_ + values.index() * Config::kStageBytes;
  }
  __device__ __forceinline__ uint32_t grad_tile() const {
    return stages_ + Config::kStages * Config::kStageBytes + grad.index() * Config::kGradTileBytes;
  }
  static __device__ __forceinline__ uint32_t barriers(uint32_t stages) {
    return stages + Config::kStages * Config::kStageBytes +
           Config::kGradStages * Config::kGradTileBytes;
  }

 private:
  const uint32_t stages_;
};

}  // namespace dcn
