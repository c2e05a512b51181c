// From pixels to columns, and back from the gradient of columns. Included by kernels.cpp alone.
//
// Both walk the pixels of a tile for one tap, and the channels of one offset group as vectors: four
// corners are read, each once, whatever is made of them. A corner outside the image is not read; it
// is replaced by zeros (and by a spill row where gradients are written), so the loop over channels
// has no cases.
#pragma once

#include "../bilinear.h"
#include "simd.h"

namespace dcn::cpu {
namespace {

template <typename Element>
struct Corners {
  const Element* value[4];
};

template <typename Element>
DCN_INLINE int64_t corner_pixel(const GatherParams<Element>& params, int32_t i, int k) {
  using Acc = AccType<Element>;
  return params.plan->pixel[i] + Sample<Acc>::corner_step(k, params.row_stride);
}

template <typename Element>
DCN_INLINE Corners<Element> corners_of(const GatherParams<Element>& params, int32_t i) {
  Corners<Element> corners;
  const uint32_t present = params.plan->corners[i];
  for (int k = 0; k < 4; ++k) {
    const Element* there = params.image + corner_pixel(params, i, k) * params.pixel_stride;
    corners.value[k] = (present >> k) & 1u ? there : params.zeros;
  }
  return corners;
}

template <typename Element>
void gather(const GatherParams<Element>& params) {
  using Acc = AccType<Element>;
  const SamplePlan<Acc>& plan = *params.plan;
  for (int32_t i = 0; i < params.pixels; ++i) {
    const Corners<Element> at = corners_of(params, i);
    const Acc weight[4] = {plan.weight[0][i], plan.weight[1][i], plan.weight[2][i],
                           plan.weight[3][i]};
    const Acc mask = plan.mask[i], fill = plan.fill[i];
    Acc* column = params.column + i * params.column_stride;
    for_vectors<kNativeLanes<Acc>>(params.channels, [&](auto width, int c) {
      constexpr int kLanes = decltype(width)::value;
      auto value = fill + weight[0] * load<kLanes>(at.value[0] + c);
      for (int k = 1; k < 4; ++k) value += weight[k] * load<kLanes>(at.value[k] + c);
      store<kLanes>(column + c, mask * value);
    });
  }
}

// One pixel's channels: the column, the four dot products <gradient, corner>, and the gradients of
// the corners.
template <typename Element, bool kScatter>
DCN_INLINE FourSums<AccType<Element>> differentiate_pixel(
    const DifferentiateParams<Element>& params, int32_t i) {
  using Acc = AccType<Element>;
  const GatherParams<Element>& gather = params.gather;
  const SamplePlan<Acc>& plan = *gather.plan;
  const Corners<Element> at = corners_of(gather, i);
  const Acc mask = plan.mask[i], fill = plan.fill[i];
  Acc weight[4], masked[4];
  Acc* grad_at[4];
  const int64_t skipped = int64_t{params.grad_first_row} * gather.row_stride;
  for (int k = 0; k < 4; ++k) {
    weight[k] = plan.weight[k][i];
    masked[k] = mask * weight[k];
    if constexpr (kScatter) {
      Acc* there = params.grad_image + (corner_pixel(gather, i, k) - skipped) * gather.pixel_stride;
      grad_at[k] = (plan.corners[i] >> k) & 1u ? there : params.spill;
    }
  }
  const Acc* grad = params.grad_column + i * gather.column_stride;
  Acc* column = gather.column + i * gather.column_stride;
  FourSums<Acc> sums{};

  constexpr int kNative = kNativeLanes<Acc>;
  const auto step = [&](auto width, int c, auto& dot) __attribute__((always_inline)) {
    constexpr int kLanes = decltype(width)::value;
    const Vec<Acc, kLanes> g = load<kLanes>(grad + c);
    Vec<Acc, kLanes> value = Vec<Acc, kLanes>{} + fill;
    for (int k = 0; k < 4; ++k) {
      const Vec<Acc, kLanes> v = load<kLanes>(at.value[k] + c);
      value += weight[k] * v;
      dot[k] += g * v;
      if constexpr (kScatter) {
        store<kLanes>(grad_at[k] + c, load<kLanes>(grad_at[k] + c) + masked[k] * g);
      }
    }
    store<kLanes>(column + c, mask * value);
  };
  int c = 0;
  if (gather.channels >= kNative) {
    Vec<Acc, kNative> dot[4] = {};
    for (; c + kNative <= gather.channels; c += kNative) step(Width<kNative>{}, c, dot);
    add_sums<Acc, kNative>(sums, dot);
  }
  for_tail<kNative / 2>(
      gather.channels, c, [&](auto width, int tail) __attribute__((always_inline)) {
        Vec<Acc, decltype(width)::value> dot[4] = {};
        step(width, tail, dot);
        add_sums<Acc, decltype(width)::value>(sums, dot);
      });
  return sums;
}

// Four dot products a pixel become the gradients of its offset and mask, by the formulas of the
// interpolation itself.
template <typename Element>
DCN_INLINE void add_sampling_gradients(const DifferentiateParams<Element>& params,
                                       const FourSums<AccType<Element>>* dots) {
  using Acc = AccType<Element>;
  const SamplePlan<Acc>& plan = *params.gather.plan;
  for (int32_t i = 0; i < params.gather.pixels; ++i) {
    const Sample<Acc> sample{0, 0, plan.ly[i], plan.lx[i], plan.corners[i], plan.fill[i]};
    const Acc* dot = dots[i].of;
    params.grad_y[i] += plan.mask[i] * sample.d_dy(dot[0], dot[1], dot[2], dot[3]);
    params.grad_x[i] += plan.mask[i] * sample.d_dx(dot[0], dot[1], dot[2], dot[3]);
    params.grad_mask[i] += sample.interpolate(dot[0], dot[1], dot[2], dot[3]);
  }
}

template <typename Element>
void differentiate(const DifferentiateParams<Element>& params) {
  FourSums<AccType<Element>> dots[kMaxTilePixels];
  if (params.grad_image) {
    for (int32_t i = 0; i < params.gather.pixels; ++i) {
      dots[i] = differentiate_pixel<Element, true>(params, i);
    }
  } else {
    for (int32_t i = 0; i < params.gather.pixels; ++i) {
      dots[i] = differentiate_pixel<Element, false>(params, i);
    }
  }
  if (params.grad_y) add_sampling_gradients(params, dots);
}

}  // namespace
}  // namespace dcn::cpu
