// The samples of owgrad: planned as for the weight gradient, and kept until their dot products with
// the gradient columns have become gradients of offset and mask.
#pragma once

#include "../../../bilinear.h"
#include "../wgrad/wgrad_samples.cuh"
#include "owgrad_params.h"

namespace dcn {

template <int kSlices>
struct OwgradPlan : StepPlan<16> {
  float4 dots[kSlices][16];  // <gradient columns, corner>
  float y[16], x[16], mask[16];

  __device__ __forceinline__ void keep(int32_t row, float at_y, float at_x, float m) {
    y[row] = at_y;
    x[row] = at_x;
    mask[row] = m;
  }
};

// Where the gradients of a unit's samples go: to the result, or to a part of it. It lies in shared
// memory: few steps look at it.
struct SamplingTarget {
  void *offset, *mask;  // or null
  bool narrow_offset, narrow_mask;
  int32_t map;  // of an image's

  // `part`: of `params.parts`.
  __device__ __forceinline__ void set(const OwgradParams& params, int32_t unit_map, int32_t part) {
    const int64_t masks = int64_t{params.shape.D} * params.shape.taps() * params.pixels;
    const bool whole = params.parts == nullptr;
    offset = whole ? params.grad_offset : params.parts + 3 * part * masks;
    mask = whole ? params.grad_mask : params.parts + (3 * part + 2) * masks;
    narrow_offset = whole && params.offset.dtype != Dtype::kF32;
    narrow_mask = whole && params.mask.dtype != Dtype::kF32;
    map = unit_map;
  }
  __device__ __forceinline__ void set_nothing() { offset = mask = nullptr; }

  template <class Math, int kSlices>
  __device__ __forceinline__ void store(const OwgradParams& params, const OwgradPlan<kSlices>& plan,
                                        int32_t row) const {
    const ConvShape& shape = params.shape;
    const Sample<float> sample = make_sample(plan.y[row], plan.x[row], shape.H, shape.W);
    float4 dots = plan.dots[0][row];
    if constexpr (kSlices == 2) {
      const float4 more = plan.dots[1][row];
      dots = {dots.x + more.x, dots.y + more.y, dots.z + more.z, dots.w + more.w};
    }
    // A corner outside was replaced by its neighbour.
    const float d0 = sample.has(0) ? dots.x : 0.f, d1 = sample.has(1) ? dots.y : 0.f;
    const float d2 = sample.has(2) ? dots.z : 0.f, d3 = sample.has(3) ? dots.w : 0.f;
    const uint32_t plane = params.walk.image.value, pixel = plan.pixel[row];
    const uint32_t n = params.walk.image.quotient(pixel);
    const int64_t maps_before = int64_t{n} * (shape.D * shape.taps()) + map;
    const int64_t begin = maps_before * static_cast<int32_t>(plane);
    const int64_t at = begin + (pixel - n * plane);
    if (offset != nullptr) {
      const float m = plan.mask[row];
      put<Math>(offset, narrow_offset, begin + at, m * sample.d_dy(d0, d1, d2, d3));
      put<Math>(offset, narrow_offset, begin + at + plane, m * sample.d_dx(d0, d1, d2, d3));
    }
    if (mask != nullptr) {
      put<Math>(mask, narrow_mask, at, sample.interpolate(d0, d1, d2, d3));
    }
  }

 private:
  template <class Math>
  static __device__ __forceinline__ void put(void* to, bool is_narrow, int64_t index, float value) {
    if (is_narrow) {
      narrow(value, static_cast<typename Math::Element*>(to)[index]);
    } else {
      static_cast<float*>(to)[index] = value;
    }
  }
};

}  // namespace dcn
