// Any samples of the scatter: beyond the window or the image, with numbers that are not finite, of
// several blocks of channels.
#pragma once

#include <limits>

#include "../atomic_add.cuh"
#include "scatter_sampling.cuh"

namespace dcn {

template <class Math>
class ScatterRest : public ScatterSampling<Math> {
 public:
  using Base = ScatterSampling<Math>;
  using Base::add_dots, Base::count, Base::first_map, Base::place, Base::reads_image;
  using Base::Base;
  using Base::kNowhere;
  using Base::kTurns, Base::kVectors, Base::kOffset, Base::kMask, Base::kInput, Base::kWeight;
  using Base::params_, Base::shared_, Base::tile_;
  using Base::set_landed, Base::store_value, Base::value_weights, Base::wanted;
  using typename Base::Block;
  using typename Base::Element;
  using typename Base::Pixel;
  using typename Base::Shared;

  // Of this thread's taps, those that are left. Where there is no pixel, values are 0.
  __device__ __forceinline__ void run(const Pixel& own, const Block* image, int32_t first_tap,
                                      int32_t taps, int32_t block, uint32_t left) const {
    const ConvShape& shape = params_.shape;
    const int wants = wanted();
    ScatterMaps<Math, false> maps(params_, own.at, first_map(own, first_tap), kTurns);
#pragma unroll 1
    for (int32_t tap = own.turn; tap < taps; tap += kTurns) {
      const LoadedMaps loaded = maps.next();
      const int32_t i = own.sample(tap);
      if ((left >> tap & 1u) != 0 && own.exists) {
        const float2 place = shared_.tap_place()[tap];
        const ScatterPosition position(
            (static_cast<float>(shape.origin_y(own.at.p, 0)) + place.x) + maps.dy(loaded),
            (static_cast<float>(shape.origin_x(own.at.q, 0)) + place.y) + maps.dx(loaded),
            maps.mask(loaded), shape.H, shape.W);
        if (reads_image()) {
          const float worth = position.inside ? position.mask : position.mask * position.fill;
          const uint4 weight = value_weights(position.ly, position.lx, worth);
          float dot[4] = {};
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            uint4 corner[4];
            load(image, position, v, corner);
            if ((wants & kWeight) != 0) store_value(i, v, corner, weight);
            if ((wants & (kOffset | kMask)) != 0) {
              float gradient[Shared::kVectorChannels];
              shared_.load_gradient(i, v, gradient);
              add_dots(gradient, corner, dot);
            }
          }
          if ((wants & (kOffset | kMask)) != 0) sampling_gradients(maps, position, dot, i, block);
        }
        if ((wants & kInput) != 0) {
          float gradient[kBlockChannels];
          shared_.load_gradient(i, gradient);
          land(position, gradient, i, block);
        }
      } else if (!own.exists && (wants & kWeight) != 0) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) store_value(i, v, {}, {});
      }
      maps.next_gradients();
    }
  }

 private:
  static constexpr float kMost = std::numeric_limits<float>::max();

  // Zeros for the corners that the image has not.
  __device__ __forceinline__ void load(const Block* image, const ScatterPosition& at, int vector,
                                       uint4 (&corner)[4]) const {
    const Block* const first = image + (at.y0 * params_.shape.W + at.x0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const Block* const from = first + Sample<float>::corner_step(k, params_.shape.W);
      corner[k] = {};
      if (at.has[k]) corner[k] = __ldg(reinterpret_cast<const uint4*>(from) + vector);
    }
  }

  // -1: none of the window's.
  __device__ __forceinline__ int32_t bin_of(const ScatterPosition& at) const {
    const int32_t row = at.y0 - tile_.bin_y, column = at.x0 - tile_.bin_x;
    const bool within =
        at.inside && static_cast<uint32_t>(row) < static_cast<uint32_t>(params_.window.rows) &&
        static_cast<uint32_t>(column) < static_cast<uint32_t>(params_.window.columns);
    return within ? row * params_.window.columns + column : -1;
  }

  __device__ __forceinline__ void sampling_gradients(const ScatterMaps<Math, false>& maps,
                                                     const ScatterPosition& position,
                                                     float (&dot)[4], int32_t i,
                                                     int32_t block) const {
    if (block > 0) {
      const float4 so_far = shared_.dots()[i];
      dot[0] += so_far.x, dot[1] += so_far.y, dot[2] += so_far.z, dot[3] += so_far.w;
    }
    if (block + 1 < params_.blocks.count) {
      shared_.dots()[i] = make_float4(dot[0], dot[1], dot[2], dot[3]);
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) dot[k] = position.has[k] ? dot[k] : 0.f;
    // As Sample's derivatives.
    const Sample<float> sample{0, 0, position.ly, position.lx, 0, position.fill};
    if (params_.grad_offset != nullptr) {
      maps.store_offset(position.mask * sample.d_dy(dot[0], dot[1], dot[2], dot[3]),
                        position.mask * sample.d_dx(dot[0], dot[1], dot[2], dot[3]));
    }
    if (params_.grad_mask != nullptr) {
      maps.store_mask(sample.interpolate(dot[0], dot[1], dot[2], dot[3]));
    }
  }

  // Into the count of a bin, or to memory.
  __device__ __forceinline__ void land(const ScatterPosition& position,
                                       const float (&gradient)[kBlockChannels], int32_t i,
                                       int32_t block) const {
    const int32_t bin = bin_of(position);
    if (block == 0) {
      if (bin >= 0) {
        set_landed(i, bin, count(bin));
        place(i, position.ly, position.lx, position.mask);
      } else {
        shared_.landed()[i] = kNowhere;
        if (position.inside) atomicAdd(shared_.astray(), 1);
      }
    }
    // A weight of 0 times what is not finite would be NaN: the lists have finite products alone.
    float total = 0.f;
#pragma unroll
    for (const float g : gradient) total += g;
    const bool finite = fabsf(total * position.mask) <= kMost;
    if ((finite && bin >= 0) || !position.inside) return;
    if (!finite) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        shared_.gradient()[v * kScatterSamples + i] = {};
      }
      if (!(fabsf(position.mask) <= kMost)) shared_.place()[i].mask = 0.f;
    }
    const ConvShape& shape = params_.shape;
    const ScatterBlock at = tile_.block(params_, block);
    const InputSums sums = InputSums::of<Element>(params_, tile_, block);
    float* const first = sums.first + int64_t{position.y0 * shape.W + position.x0} * sums.pixel;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float weight = position.weight(k) * position.mask;
      // A corner of weight zero is touched by no gradient.
      if (!position.has[k] || weight == 0.f) continue;
      float* const to = first + int64_t{Sample<float>::corner_step(k, shape.W)} * sums.pixel;
#pragma unroll
      for (int v = 0; v < kBlockChannels; v += 4) {
        if (v >= at.channels) continue;
        // Where channels pad, gradients are 0; times what is not finite they would be none.
        Vector<float, 4> part;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          part.lane[j] = v + j < at.channels ? weight * gradient[v + j] : 0.f;
        }
        atomic_add(to + v, part);
      }
    }
  }
};

}  // namespace dcn
