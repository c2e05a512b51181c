// The samples of the weight gradient: a warp's 16 or 32 pixels of a step at one tap, planned for
// two steps or one at a time, one lane for each sample, into a ring in shared memory.
#pragma once

#include "../fused/fused_samples.cuh"
#include "wgrad_params.h"

namespace dcn {

// Corners count vectors from the image's begin: 32 bits reach 64 GiB.
template <int kPixels>
struct StepPlan {
  uint4 corner[kPixels];
  uint4 weight[kPixels];
  uint32_t pixel[kPixels];  // of the output; beyond the last, the last
  uint32_t outside;         // bit r: the value of row r is 0, whatever is read
  uint32_t unused[3];

  // What is kept of a sample beside that: nothing.
  __device__ __forceinline__ void keep(int32_t, float, float, float) {}
};

__device__ __forceinline__ uint4 vector_at(const uint8_t* from, uint32_t index) {
  return __ldg(reinterpret_cast<const uint4*>(from + uint64_t{index} * kVectorBytes));
}

// A unit of a convolution group: where its samples and its channels are.
struct WgradUnit {
  int32_t tap;
  int32_t channel;  // first one, of the padded image
  int32_t left;     // channels of the block from there on
};

// kPixels of a warp in a step of kStepPixels. kSharers warps may take turns.
template <class Math, int kPixels, int kStepPixels, class Plan = StepPlan<kPixels>,
          int kSharers = 1>
class StepPlanner {
 public:
  // `row`: of the step's pixels, the first of this warp.
  __device__ __forceinline__ StepPlanner(const WgradParams& params, Plan* ring, int32_t row,
                                         int lane)
      : params_(params), ring_(ring), row_(row), lane_(lane) {}

  static constexpr int kSteps = 32 / kPixels;  // planned at a time

  // Has the offsets of the first steps from `step` on on their way.
  __device__ __forceinline__ void aim(const WgradUnit& unit, int32_t step) {
    tap_ = unit.tap;
    map_ = unit.channel / params_.layout.offset_channels * params_.shape.taps() + unit.tap;
    step_ = step;
    fetch();
  }
  // And plans them; those of the next ones are on their way then.
  __device__ __forceinline__ void begin(const WgradUnit& unit, int32_t step) {
    aim(unit, step);
    plan(0);
  }

  // Into places at, at + 1, ... of the ring, which nobody reads any more.
  __device__ __forceinline__ void plan(int32_t at) {
    const ConvShape& shape = params_.shape;
    const uint32_t index = index_at(step_ - kSteps * kSharers);
    const bool exists_ = index < params_.pixels;
    const uint32_t pixel_vectors =
        params_.layout.channels * sizeof(typename Math::Element) / kVectorBytes;
    const uint32_t row_vectors = shape.W * pixel_vectors;
    const int32_t r = params_.kernel_width.quotient(tap_), s = tap_ - r * shape.S;
    const MapCursor<Math> offset(params_.offset, pixel_, 0);
    const float m = params_.mask.data == nullptr
                        ? 1.f
                        : MapCursor<Math>(params_.mask, pixel_, 0).value(modulation_);
    const float y = static_cast<float>(shape.origin_y(pixel_.p, r)) + offset.value(dy_);
    const float x = static_cast<float>(shape.origin_x(pixel_.q, s)) + offset.value(dx_);
    const FusedSample sample = fused_sample(y, x, exists_ ? m : 0.f, shape.H, shape.W, row_vectors,
                                            pixel_vectors, pixel_.n * (shape.H * row_vectors));
    const int lane = unkept(lane_);
    Plan& plan = ring_[at + lane / kPixels];
    const int32_t row = lane % kPixels;
    plan.corner[row] = sample.corner;
    plan.weight[row] = Math::weights(sample.weight);
    plan.keep(row, y, x, m);
    plan.pixel[row] = (pixel_.n * shape.P + pixel_.p) * shape.Q + pixel_.q;
    const uint32_t outside = __ballot_sync(~0u, sample.outside || !exists_);
    if (row == 0) plan.outside = outside >> lane_ & (~0u >> (32 - kPixels));
    fetch();
    __syncwarp();
  }

 private:
  // Of this lane's pixel in the walk.
  __device__ __forceinline__ uint32_t index_at(int32_t step) const {
    const int lane = unkept(lane_);
    return (step + lane / kPixels) * kStepPixels + row_ + lane % kPixels;
  }
  __device__ __forceinline__ void fetch() {
    pixel_ = pixel_at(params_.shape, params_.walk, min(index_at(step_), params_.pixels - 1));
    const MapCursor<Math> offset(params_.offset, pixel_, 2 * map_);
    dy_ = offset.load(0);
    dx_ = offset.load(1);
    modulation_ = MapCursor<Math>(params_.mask, pixel_, map_).load(0);
    step_ += kSteps * kSharers;
  }

  const WgradParams& params_;
  Plan* const ring_;
  const int32_t row_;
  const int lane_;
  int32_t tap_, map_, step_;
  OutputPixel pixel_;  // of the steps that are planned next
  uint32_t dy_, dx_, modulation_;
};

}  // namespace dcn
