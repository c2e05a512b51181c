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

// Where the corners of a pixel's sample lie: `at` for those of the image, `absent` for the others.
template <typename T>
struct CornerRows {
  T* row[4];
};

// Strides in elements, as wide as pointers: so that nothing is converted or multiplied twice in the
// loop over pixels.
struct Strides {
  int64_t pixel, step[4];

  template <typename Element>
  explicit Strides(const GatherParams<Element>& params) : pixel(params.pixel_stride) {
    using Acc = AccType<Element>;
    for (int k = 0; k < 4; ++k) {
      step[k] = Sample<Acc>::corner_step(k, params.row_stride) * pixel;
    }
  }

  template <typename T>
  DCN_INLINE CornerRows<T> rows(T* image, int64_t first_pixel, uint32_t present, T* absent) const {
    CornerRows<T> corners;
    T* there = image + first_pixel * pixel;
    for (int k = 0; k < 4; ++k) corners.row[k] = there + step[k];
    if (present != 15u) {
      for (int k = 0; k < 4; ++k) {
        if (!((present >> k) & 1u)) corners.row[k] = absent;
      }
    }
    return corners;
  }
};

// Parameters by value: the compiler need not suppose that a store to a column changes them.
template <typename Element, int kChannels>
DCN_INLINE void gather_channels(const GatherParams<Element> params) {
  using Acc = AccType<Element>;
  const SamplePlan<Acc>& plan = *params.plan;
  const int channels = kChannels ? kChannels : params.channels;
  const Strides strides(params);
  for (int32_t i = 0; i < params.pixels; ++i) {
    const auto at = strides.rows(params.image, plan.pixel[i], plan.corners[i], params.zeros);
    const Acc weight[4] = {plan.weight[0][i], plan.weight[1][i], plan.weight[2][i],
                           plan.weight[3][i]};
    const Acc mask = plan.mask[i], fill = plan.fill[i];
    Acc* column = params.column + i * params.column_stride;
    for_vectors<kNativeLanes<Acc>>(channels, [&](auto width, int c) {
      constexpr int kLanes = decltype(width)::value;
      auto value = fill + weight[0] * load<kLanes>(at.row[0] + c);
      for (int k = 1; k < 4; ++k) value += weight[k] * load<kLanes>(at.row[k] + c);
      store<kLanes>(column + c, mask * value);
    });
  }
}

// Few channels an offset group are common, and their loop is worth unrolling: 8 is that of video
// restoration.
template <typename Element>
void gather(const GatherParams<Element>& params) {
  switch (params.channels) {
    case 4:
      return gather_channels<Element, 4>(params);
    case 8:
      return gather_channels<Element, 8>(params);
    case 16:
      return gather_channels<Element, 16>(params);
    default:
      return gather_channels<Element, 0>(params);
  }
}

// One pixel's channels: the column, the gradients of the corners, and (returned) the four dot
// products <gradient, corner>.
template <typename Element, bool kScatter, int kChannels>
DCN_INLINE Vec<AccType<Element>, 4> differentiate_pixel(const DifferentiateParams<Element>& params,
                                                        const Strides& strides, int32_t i) {
  using Acc = AccType<Element>;
  const GatherParams<Element>& gather = params.gather;
  const SamplePlan<Acc>& plan = *gather.plan;
  const int channels = kChannels ? kChannels : gather.channels;
  const auto at = strides.rows(gather.image, plan.pixel[i], plan.corners[i], gather.zeros);
  CornerRows<Acc> grad_at{};
  if constexpr (kScatter) {
    const int64_t skipped = int64_t{params.grad_first_row} * gather.row_stride;
    grad_at =
        strides.rows(params.grad_image, plan.pixel[i] - skipped, plan.corners[i], params.spill);
  }
  const Acc mask = plan.mask[i], fill = plan.fill[i];
  const Acc weight[4] = {plan.weight[0][i], plan.weight[1][i], plan.weight[2][i],
                         plan.weight[3][i]};
  const Acc masked[4] = {mask * weight[0], mask * weight[1], mask * weight[2], mask * weight[3]};
  const Acc* grad = params.grad_column + i * gather.column_stride;
  Acc* column = gather.column + i * gather.column_stride;

  constexpr int kNative = kNativeLanes<Acc>;
  const auto step = [&](auto width, int c, auto& dot) __attribute__((always_inline)) {
    constexpr int kLanes = decltype(width)::value;
    const Vec<Acc, kLanes> g = load<kLanes>(grad + c);
    Vec<Acc, kLanes> value = Vec<Acc, kLanes>{} + fill;
    for (int k = 0; k < 4; ++k) {
      const Vec<Acc, kLanes> v = load<kLanes>(at.row[k] + c);
      value += weight[k] * v;
      dot[k] += g * v;
      if constexpr (kScatter) {
        store<kLanes>(grad_at.row[k] + c, load<kLanes>(grad_at.row[k] + c) + masked[k] * g);
      }
    }
    store<kLanes>(column + c, mask * value);
  };
  Vec<Acc, 4> sums{};
  int c = 0;
  if (channels >= kNative) {
    Vec<Acc, kNative> dot[4] = {};
    for (; c + kNative <= channels; c += kNative) step(Width<kNative>{}, c, dot);
    sums = four_sums<Acc, kNative>(dot);
  }
  for_tail<kNative / 2>(
      channels, c, [&](auto width, int tail) __attribute__((always_inline)) {
        Vec<Acc, decltype(width)::value> dot[4] = {};
        step(width, tail, dot);
        sums += four_sums<Acc, decltype(width)::value>(dot);
      });
  return sums;
}

// Four dot products a pixel become the gradients of its offset and mask, by the formulas of the
// interpolation itself.
template <typename Element>
DCN_INLINE void add_sampling_gradients(const DifferentiateParams<Element>& params,
                                       const AccType<Element> (*__restrict dots)[4]) {
  using Acc = AccType<Element>;
  const SamplePlan<Acc>& plan = *params.gather.plan;
  Acc* __restrict grad_y = params.grad_y, * __restrict grad_x = params.grad_x;
  Acc* __restrict grad_mask = params.grad_mask;
  for (int32_t i = 0; i < params.gather.pixels; ++i) {
    const Sample<Acc> sample{0, 0, plan.ly[i], plan.lx[i], plan.corners[i], plan.fill[i]};
    const Acc* dot = dots[i];
    grad_y[i] += plan.mask[i] * sample.d_dy(dot[0], dot[1], dot[2], dot[3]);
    grad_x[i] += plan.mask[i] * sample.d_dx(dot[0], dot[1], dot[2], dot[3]);
    grad_mask[i] += sample.interpolate(dot[0], dot[1], dot[2], dot[3]);
  }
}

template <typename Element, bool kScatter, int kChannels>
DCN_INLINE void differentiate_channels(const DifferentiateParams<Element> params) {
  using Acc = AccType<Element>;
  alignas(64) Acc dots[kMaxTilePixels][4];
  const Strides strides(params.gather);
  for (int32_t i = 0; i < params.gather.pixels; ++i) {
    store<4>(dots[i], differentiate_pixel<Element, kScatter, kChannels>(params, strides, i));
  }
  if (params.grad_y) add_sampling_gradients(params, dots);
}

template <typename Element>
void differentiate(const DifferentiateParams<Element>& params) {
  if (!params.grad_image) return differentiate_channels<Element, false, 0>(params);
  switch (params.gather.channels) {
    case 8:
      return differentiate_channels<Element, true, 8>(params);
    case 16:
      return differentiate_channels<Element, true, 16>(params);
    default:
      return differentiate_channels<Element, true, 0>(params);
  }
}

}  // namespace
}  // namespace dcn::cpu
