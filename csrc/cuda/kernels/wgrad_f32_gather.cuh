// The warps of f32's weight gradient that fill the ring: each gathers the pixels of a unit, or half
// of them, and brings the gradient of four pixels.
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
        ring_(stages),
        plans_(plans + warp * Config::kPlannedSteps),
        warp_(warp),
        lane_(lane),
        planner_(params, plans_, warp / Config::kUnits * kPixels, lane) {}

  __device__ __forceinline__ void fill(const WgradSegments<Config>& segment) {
    const WgradUnit unit = segment.unit(params_, warp_ % Config::kUnits);
    const int32_t vector = lane_ % 8 * kVectorBytes;
    slice_ =
        reinterpret_cast<const uint8_t*>(static_cast<const float*>(params_.input) + unit.channel) +
        (vector < unit.left * 4 ? vector : 0);
    asm volatile("" : "+l"(slice_));  // one number, not a sum to be added up for each load
    const int32_t channel = segment.first_k + lane_ % 8 * 4;
    grad_channels_ = params_.grad_layout.group_channels - channel;
    grad_ = static_cast<const uint8_t*>(params_.grad) +
            (int64_t{segment.group} * params_.grad_layout.group_channels + channel) * 4;
    asm volatile("" : "+l"(grad_));
    __syncwarp();  // the plans have been read
    planner_.begin(unit, segment.first);
    load(plans_[0], 0);
    load_grad(plans_[0], segment.pixels_left(params_, 0), 0);
#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const bool more = step + 1 < segment.steps;
      if (more && step % Planner::kSteps == 0) {
        planner_.plan((step + Planner::kSteps) % Config::kPlannedSteps);
      }
      const Plan& plan = plans_[step % Config::kPlannedSteps];
      const Plan& next = plans_[(step + 1) % Config::kPlannedSteps];
      ring_.wait_empty();
      const int32_t left = segment.pixels_left(params_, step);
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        mix(plan, group);
        if (group + 1 < kGroups) {
          load(plan, group + 1);
        } else if (more) {
          load(next, 0);
        }
        store_grad(group);
        if (group + 1 < kGroups) {
          load_grad(plan, left, group + 1);
        } else if (more) {
          load_grad(next, left - Config::kStepPixels, 0);
        }
      }
      ring_.leave_full(lane_);
    }
  }

 private:
  static constexpr int kGroups = kPixels / 8;
  static constexpr int kVectors = Config::kChannels / 32;      // of a pixel's gradient
  static constexpr int kShare = (kVectors - 1) / kGroups + 1;  // that come beside a group
  static constexpr int kRowsBytes = 8 * kSliceBytes;           // of 8 rows of a tile

  // Lane (q, v) = (lane / 8, lane % 8) has vectors v of pixels q and q + 4 of a group.
  __device__ __forceinline__ void load(const Plan& plan, int group) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 at = plan.corner[8 * group + 4 * i + lane_ / 8];
      corner_[i][0] = vector_at(slice_, at.x);
      corner_[i][1] = vector_at(slice_, at.y);
      corner_[i][2] = vector_at(slice_, at.z);
      corner_[i][3] = vector_at(slice_, at.w);
    }
  }
  __device__ __forceinline__ void mix(const Plan& plan, int group) const {
    uint32_t value[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Math::mix(corner_[i], plan.weight[8 * group + 4 * i + lane_ / 8], value[i]);
    }
    const uint32_t outside = plan.outside >> (8 * group) & 0xff;
    if (outside != 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool clear = outside >> (4 * i + lane_ / 8) & 1u;
#pragma unroll
        for (int e = 0; e < 4; ++e) value[i][e] = clear ? 0 : value[i][e];
      }
    }
    const uint32_t unit = ring_.values() + warp_ % Config::kUnits * 4 * kRowsBytes;
    const int first = warp_ / Config::kUnits * (kPixels / 4) + 2 * group;
#pragma unroll
    for (int i = 0; i < 2; ++i) store(unit, Config::kValueBytes, first + i, value[i]);
  }

  // Zeros beyond the last pixel, which no infinity of another one may replace, and for channels
  // that the group has not.
  __device__ __forceinline__ void load_grad(const Plan& plan, int32_t left, int group) {
    const uint32_t row_bytes = params_.grad_layout.channels * 4;
    const int row = 4 * warp_ + lane_ / 8;
    const uint8_t* const from = grad_ + uint64_t{plan.pixel[row % kPixels]} * row_bytes;
    const int32_t channels = row < left ? grad_channels_ : 0;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      const int j = group * kShare + i;
      grad_vector_[i] = {0, 0, 0, 0};
      if (j < kVectors) {
        ptx::load_vector_if(32 * j < channels, from + j * kSliceBytes, grad_vector_[i]);
      }
    }
  }
  __device__ __forceinline__ void store_grad(int group) const {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      const int j = group * kShare + i;
      if (j >= kVectors) break;
      uint32_t value[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = Math::rounded(register_of(grad_vector_[i], e));
      store(ring_.grad() + j * 4 * kRowsBytes, Config::kGradBytes, warp_, value);
    }
  }

  // Four channels of this lane's pixel of the four from 4 * `quad` on, into 32 rows of a tile.
  __device__ __forceinline__ void store(uint32_t rows, uint32_t part_bytes, int quad,
                                        const uint32_t (&value)[4]) const {
    const uint32_t to =
        rows + lane_ % 8 * kSliceBytes + (quad ^ lane_ % 8) * kVectorBytes + lane_ / 8 * 4;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (Config::kParts == 1) {
        ptx::store_word(to + e * kRowsBytes, value[e]);
      } else {
        uint32_t leading, trailing;
        split_tf32(value[e], leading, trailing);
        ptx::store_word(to + e * kRowsBytes, leading);
        ptx::store_word(to + part_bytes + e * kRowsBytes, trailing);
      }
    }
  }

  const WgradParams& params_;
  WgradF32Ring<Config> ring_;
  Plan* const plans_;
  const int warp_, lane_;
  Planner planner_;
  const uint8_t *slice_, *grad_;  // this lane's vector: of the unit, of the tile's first channels
  int32_t grad_channels_;         // that the group has from there on
  uint4 corner_[2][4], grad_vector_[kShare];
};

}  // namespace dcn
