// The warps of f32's weight gradient that fill the rings: each gathers some pixels of a tap, of one
// slice or two, and copies a share of the gradient, a step ahead.
//
// Bound by what the L1 hands to registers, 64 bytes in a cycle: loads of plans count, too.
#pragma once

#include "wgrad_f32_ring.cuh"

namespace dcn {

template <class Config>
class WgradF32Gather {
  using Math = typename Config::Math;
  static constexpr int kPixels = Config::kPlanPixels;  // of a warp in a step
  using Plan = StepPlan<kPixels>;
  using Planner = StepPlanner<Math, kPixels, Config::kStepPixels>;

 public:
  __device__ __forceinline__ WgradF32Gather(const WgradParams& params, Plan* plans, uint32_t stages,
                                            int warp, int lane)
      : params_(params),
        rings_(stages),
        plans_(plans + warp * Config::kPlannedSteps),
        tap_(warp % Config::kTaps),
        part_(warp / Config::kTaps),
        lane_(lane),
        planner_(params, plans_, part_ * kPixels, lane) {}

  __device__ __forceinline__ void fill(const WgradSegments<Config>& segment) {
    const WgradUnit unit = segment.unit(params_, tap_ * kSlices, kSlices);
    const int32_t vector = lane_ % 8 * kVectorBytes;
    slice_ =
        reinterpret_cast<const uint8_t*>(static_cast<const float*>(params_.input) + unit.channel) +
        (vector < unit.left * 4 ? vector : 0);
    asm volatile("" : "+l"(slice_));  // one number, not a sum to be added up for each load
    const int32_t group_channels = params_.grad_layout.group_channels;
    grad_channels_ = group_channels - segment.first_k;
    grad_vector_ = (segment.group * group_channels + segment.first_k) / 4;
    __syncwarp();  // the plans have been read
    planner_.begin(unit, segment.first);
    copy_grad(plans_[0], segment.pixels_left(params_, 0));
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load(plans_[0], i);
#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const bool more = step + 1 < segment.steps;
      const Plan& plan = plans_[step % Config::kPlannedSteps];
      const Plan& next = plans_[(step + 1) % Config::kPlannedSteps];
      rings_.values.wait_empty();
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        mix(plan, i);
        if (i + kAhead < kLoads) {
          load(plan, i + kAhead);
        } else if (more) {
          // Here, where the fewest loads are on their way: it takes registers.
          if (i + kAhead == kLoads) {
            if (step % Planner::kSteps == 0) {
              planner_.plan((step + Planner::kSteps) % Config::kPlannedSteps);
            }
            copy_grad(next, segment.pixels_left(params_, step + 1));
          }
          load(next, i + kAhead - kLoads);
        }
        if (i / kSlices % kTogether == kTogether - 1) store(plan, i);
      }
      __syncwarp();
      if (lane_ == 0) ptx::barrier_arrive(rings_.values.full());
      rings_.values.advance();
    }
  }

 private:
  static constexpr int kSlices = Config::kSlices;
  static constexpr int kLoads = kPixels / 4 * kSlices;  // of a step: four pixels of a slice each
  static constexpr int kAhead = Config::kGatherRegisters >= 120 ? 4 : 2;  // of them, on their way

  // Lane (q, v) = (lane / 8, lane % 8) has vector v of one pixel in each load, and stores those of
  // kTogether neighbours at once. Slices follow one another.
  static constexpr int kTogether = Config::kGatherRegisters < 120 ? 3 - kSlices
                                   : kSlices == 1                 ? 4
                                                                  : 2;
  __device__ __forceinline__ int pixel_of(int i) const {
    const int round = i / kSlices;
    return round / kTogether * (4 * kTogether) + lane_ / 8 * kTogether + round % kTogether;
  }
  __device__ __forceinline__ void load(const Plan& plan, int i) {
    if (i % kSlices == 0) at_ = plan.corner[pixel_of(i)];
    const uint8_t* const slice = slice_ + i % kSlices * kSliceBytes;
    uint4(&corner)[4] = corner_[i % kAhead];
    corner[0] = vector_at(slice, at_.x);
    corner[1] = vector_at(slice, at_.y);
    corner[2] = vector_at(slice, at_.z);
    corner[3] = vector_at(slice, at_.w);
  }
  __device__ __forceinline__ void mix(const Plan& plan, int i) {
    if (i % kSlices == 0) weight_ = plan.weight[pixel_of(i)];
    Math::mix(corner_[i % kAhead], weight_, value_[i % kSlices][i / kSlices % kTogether]);
  }

  // Four channels of the pixels of this load and those before it, of its slice, into the tile.
  __device__ __forceinline__ void store(const Plan& plan, int i) {
    const int first = pixel_of(i) - (kTogether - 1), pixel = part_ * kPixels + first;
    const int lane = unkept(lane_);
    uint32_t(&value)[kTogether][4] = value_[i % kSlices];
    if (plan.outside != 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const bool clear = plan.outside >> (first + j) & 1u;
#pragma unroll
        for (int e = 0; e < 4; ++e) value[j][e] = clear ? 0 : value[j][e];
      }
    }
    const uint32_t to = rings_.value_tile() + (tap_ * kSlices + i % kSlices) * Config::kUnitBytes +
                        lane % 8 * kSliceBytes + (pixel / 4 ^ lane % 8) * kVectorBytes +
                        pixel % 4 * 4;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      uint32_t leading[kTogether], trailing[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        leading[j] = value[j][e];
        if constexpr (Config::kParts == 2) split_tf32<false>(value[j][e], leading[j], trailing[j]);
      }
      ptx::store_words(to + e * 8 * kSliceBytes, leading);
      if constexpr (Config::kParts == 2) {
        ptx::store_words(to + Config::kValueBytes + e * 8 * kSliceBytes, trailing);
      }
    }
  }

  // A share of the next step's gradient, for the pixels of this warp's part; lane (q, v) copies
  // vector v of a panel. Zeros beyond the last pixel, which no infinity of another one may replace,
  // and for channels that the group has not.
  __device__ __forceinline__ void copy_grad(const Plan& plan, int32_t left) {
    constexpr int kQuads = kPixels / 4, kPanels = Config::kChannels / 32;
    constexpr int kSharers = Config::kTaps;
    constexpr bool kOneQuad = kSharers % kQuads == 0;
    const int lane = unkept(lane_);
    const uint32_t row_vectors = params_.grad_layout.channels / 4;
    const auto* const grad = static_cast<const uint8_t*>(params_.grad) + lane % 8 * kVectorBytes;
    rings_.grad.wait_empty();
    const uint8_t* from = nullptr;
    uint32_t to = 0;
    bool exists = false;
#pragma unroll
    for (int i = 0; i < tiles_of(kQuads * kPanels, kSharers); ++i) {
      const int share = tap_ + i * kSharers, panel = share / kQuads;
      if (kQuads * kPanels % kSharers != 0 && panel >= kPanels) break;
      if (i == 0 || !kOneQuad) {
        const int row = share % kQuads * 4 + lane / 8, of_step = part_ * kPixels + row;
        from = grad + uint64_t{plan.pixel[row] * row_vectors + grad_vector_} * kVectorBytes;
        to = rings_.grad_tile() + of_step * kSliceBytes +
             (lane % 8 ^ 2 * of_step % 8) * kVectorBytes;
        exists = of_step < left;
      }
      ptx::copy_vector_or_zeros(to + panel * Config::kPanelBytes, from + panel * kSliceBytes,
                                exists && 32 * panel + lane % 8 * 4 < grad_channels_);
    }
    ptx::barrier_arrive_after_copies(rings_.grad.full());
    rings_.grad.advance();
  }

  const WgradParams& params_;
  WgradF32Rings<Config> rings_;
  Plan* const plans_;
  const int tap_, part_, lane_;
  Planner planner_;
  const uint8_t* slice_;   // this lane's vector of the unit
  uint32_t grad_vector_;   // first one of the tile, of a pixel's gradient
  int32_t grad_channels_;  // that the group has from there on
  uint4 at_, weight_;      // of the load and the mixing at hand
  uint4 corner_[kAhead][4];
  uint32_t value_[kSlices][kTogether][4];
};

}  // namespace dcn
