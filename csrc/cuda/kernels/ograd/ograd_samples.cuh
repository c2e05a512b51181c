// The samples of ograd: where a warp's corners are, and what becomes of their dot products.
//
// Every sample reads the four pixels of a square that lies in the image: the one around it, moved
// inside at the border. (An image of one row or column has a square without height or width.) The
// sums of corners that a sample does not have are dropped at the end, and so is whatever a pixel
// that is not its own held.
#pragma once

#include "../../../bilinear.h"
#include "../fused/fused_samples.cuh"
#include "ograd_weights.cuh"

namespace dcn {

// Of a warp: its samples of one part of the taps.
struct OgradPlan {
  uint32_t square[kPlanTaps][kWarpPixels];  // bytes; the even rows first, then the odd ones
  float4 sums[kPlanTaps][kWarpPixels];      // <gcol, pixel> for the pixels of the square
  float y[kPlanTaps][kWarpPixels], x[kPlanTaps][kWarpPixels], mask[kPlanTaps][kWarpPixels];
};

__device__ __forceinline__ int32_t square_begin(float at, int32_t length) {
  // Cut off, which for what is not negative is the corner's coordinate. NaN becomes 0 here.
  return static_cast<int32_t>(fminf(fmaxf(at, 0.f), static_cast<float>(max(length - 2, 0))));
}

template <class Math>
struct OgradSamples {
  const OgradParams& params;
  const OgradWork& work;
  OgradPlan& plan;
  const int lane;

  // Half a warp plans a tap for all rows; all loads are issued before the first is used.
  __device__ __forceinline__ void plan_taps(const TileRow& row, uint32_t image_base) const {
    constexpr int kRounds = (kPlanTaps + 1) / 2;
    const ConvShape& shape = params.shape;
    const int32_t own_row = lane % kWarpPixels, own_tap = lane / kWarpPixels;
    const int32_t first = work.first_tap + own_tap, taps = work.taps;
    const int32_t map = work.offset_group * shape.taps() + first;
    const MapCursor<Math> offset(params.offset, row.at, 2 * map), mask(params.mask, row.at, map);
    const auto exists = [&](int round) { return 2 * round + own_tap < taps; };
    uint32_t shift[kRounds][2], modulation[kRounds][1];
    offset.template load_rounds<kRounds, 2, 4>(shift, exists);
    mask.template load_rounds<kRounds, 1, 2>(modulation, exists);
    take_loaded(shift);
    take_loaded(modulation);
    const uint32_t pixel_bytes = params.layout.channels * sizeof(typename Math::Element);
    __syncwarp();  // the previous plan has been read
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int32_t tap = 2 * i + own_tap;
      const int32_t r = params.kernel_width.quotient(first + 2 * i);
      const int32_t s = first + 2 * i - r * shape.S;
      const float y = shape.origin_y(row.at.p, r) + offset.value(shift[i][0]);
      const float x = shape.origin_x(row.at.q, s) + offset.value(shift[i][1]);
      const int32_t pixel = square_begin(y, shape.H) * shape.W + square_begin(x, shape.W);
      if (tap < taps) {
        plan.square[tap][own_row % 2 * 8 + own_row / 2] =
            image_base + static_cast<uint32_t>(pixel) * pixel_bytes;
        plan.sums[tap][own_row] = {};
        plan.y[tap][own_row] = y;
        plan.x[tap][own_row] = x;
        plan.mask[tap][own_row] = mask.absent() ? 1.f : mask.value(modulation[i][0]);
      }
    }
    __syncwarp();
  }

  // From the sums to the gradients.
  __device__ __forceinline__ void finish(const TileRow& row) const {
    const ConvShape& shape = params.shape;
    const int32_t own_row = lane % kWarpPixels;
    const int32_t own_tap = lane / kWarpPixels;
    const int64_t plane = shape.output_pixels_per_image();
    const int64_t map = row.at.n * (int64_t{shape.D} * shape.taps()) +
                        work.offset_group * shape.taps() + work.first_tap + own_tap;
    const bool narrow_offset = is_narrow(params.offset), narrow_mask = is_narrow(params.mask);
    const int64_t inside = int64_t{row.at.p} * shape.Q + row.at.q;
    int64_t to_offset = 2 * map * plane + inside, to_mask = map * plane + inside;
    __syncwarp();  // all sums are there
    const int32_t taps = row.exists ? work.taps : 0;
#pragma unroll 1
    for (int32_t i = own_tap; i < taps; i += 2) {
      const float y = plan.y[i][own_row], x = plan.x[i][own_row];
      const Sample<float> sample = make_sample(y, x, shape.H, shape.W);
      const int32_t top = sample.y0 - square_begin(y, shape.H);
      const int32_t left = sample.x0 - square_begin(x, shape.W);
      const float4 sums = plan.sums[i][own_row];
      float dot[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool below = top + k / 2 > 0, beside = left + k % 2 > 0;
        const float upper = beside ? sums.y : sums.x, lower = beside ? sums.w : sums.z;
        dot[k] = sample.has(k) ? (below ? lower : upper) : 0.f;
      }
      if (params.grad_offset != nullptr) {
        const float mask = plan.mask[i][own_row];
        store(params.grad_offset, narrow_offset, to_offset,
              mask * sample.d_dy(dot[0], dot[1], dot[2], dot[3]));
        store(params.grad_offset, narrow_offset, to_offset + plane,
              mask * sample.d_dx(dot[0], dot[1], dot[2], dot[3]));
      }
      if (params.grad_mask != nullptr) {
        store(params.grad_mask, narrow_mask, to_mask,
              sample.interpolate(dot[0], dot[1], dot[2], dot[3]));
      }
      to_offset += 4 * plane;
      to_mask += 2 * plane;
    }
  }

  static __device__ __forceinline__ bool is_narrow(const SamplingMap& map) {
    return sizeof(typename Math::Element) == 2 && map.dtype != Dtype::kF32;
  }
  static __device__ __forceinline__ void store(void* to, bool is_narrow, int64_t index,
                                               float value) {
    if constexpr (sizeof(typename Math::Element) == 2) {
      if (is_narrow) return narrow(value, static_cast<typename Math::Element*>(to)[index]);
    }
    static_cast<float*>(to)[index] = value;
  }
};

}  // namespace dcn
