// The samples of a tile of the scatter: where they land, and what a lane does for each. Two threads
// share an output pixel; they take turns with the taps.
#pragma once

#include <limits>

#include "../../bilinear.h"
#include "atomic_add.cuh"
#include "scatter_shared.cuh"

namespace dcn {

template <class Math>
class ScatterSamples {
 public:
  using Element = typename Math::Element;
  using Block = ChannelBlock<Element>;
  using Shared = ScatterShared<Element>;

  static constexpr int kTurns = kScatterThreads / kScatterPixels;

  __device__ __forceinline__ ScatterSamples(const ScatterParams& params, const ScatterTile& tile,
                                            const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {
    const int32_t own = threadIdx.x % kScatterPixels;
    at_ = {tile.n, tile.p + own / kScatterColumns, tile.q + own % kScatterColumns};
    exists_ = at_.p < params.shape.P && at_.q < params.shape.Q;
    if (!exists_) at_ = {tile.n, tile.p, tile.q};
    origin_y_ = static_cast<float>(params.shape.origin_y(at_.p, 0));
    origin_x_ = static_cast<float>(params.shape.origin_x(at_.q, 0));
  }

  // Where these taps are, for all threads; they may read it behind the next barrier.
  __device__ __forceinline__ void begin(int32_t first_tap, int32_t taps) const {
    const int32_t own = threadIdx.x;
    if (own >= taps) return;
    const ConvShape& shape = params_.shape;
    const int32_t r = params_.kernel_width.quotient(first_tap + own);
    const int32_t s = first_tap + own - r * shape.S;
    tap_places()[own] =
        make_float2(static_cast<float>(r * shape.dil_h), static_cast<float>(s * shape.dil_w));
  }

  // The offset and mask gradients; of the input gradient what no list has. The first block counts
  // the samples by bin, from numbers of 0 on.
  __device__ __forceinline__ void run(int32_t first_tap, int32_t taps, int32_t block,
                                      const ScatterBlock& at) const {
    if (!exists_) return;
    const int32_t map = tile_.offset_group * params_.shape.taps() + first_tap + own_tap();
    MapCursor<Math> offset(params_.offset, at_, 2 * map), mask(params_.mask, at_, map);
    MapGradient to_offset(params_, params_.grad_offset, params_.offset, at_, 2, map);
    MapGradient to_mask(params_, params_.grad_mask, params_.mask, at_, 1, map);
    uint32_t dy = 0, dx = 0, modulation = 0;
    const auto fetch = [&] {
      dy = offset.load(0);
      dx = offset.load(1);
      modulation = mask.load(0);
      offset.advance(2 * kTurns);
      mask.advance(kTurns);
    };
    if (own_tap() < taps) fetch();
#pragma unroll 1
    for (int32_t tap = own_tap(); tap < taps; tap += kTurns) {
      const Position position = position_at(tap, offset.value(dy), offset.value(dx),
                                            mask.absent() ? 1.f : mask.value(modulation));
      if (tap + kTurns < taps) fetch();
      float gradient[kBlockChannels];
      load_gradient(index(tap), gradient);
      if (params_.grad_offset != nullptr || params_.grad_mask != nullptr) {
        sampling_gradients(position, gradient, index(tap), block, to_offset, to_mask);
        to_offset.advance(2 * kTurns);
        to_mask.advance(kTurns);
      }
      if (params_.grad_input != nullptr) land(position, gradient, at, index(tap), block);
    }
  }

  // The samples into the lists, once it is known where these begin.
  __device__ __forceinline__ void list(int32_t taps) const {
    if (!exists_) return;
    for (int32_t tap = own_tap(); tap < taps; tap += kTurns) {
      const uint32_t landed = shared_.landed()[index(tap)];
      if (landed == kNowhere) continue;
      const uint32_t begin = shared_.begins[landed & ((1u << kBinBits) - 1)];
      shared_.list[begin + (landed >> kBinBits)] = static_cast<uint16_t>(index(tap));
    }
  }

 private:
  static constexpr uint32_t kNowhere = ~0u;
  static constexpr int kBinBits = 10;
  static_assert(kMostBins <= 1 << kBinBits);

  static __device__ __forceinline__ float2* tap_places() {
    __shared__ float2 places[kScatterTaps];
    return places;
  }
  static __device__ __forceinline__ int32_t own_tap() { return threadIdx.x / kScatterPixels; }
  static __device__ __forceinline__ int32_t index(int32_t tap) {
    return tap * kScatterPixels + threadIdx.x % kScatterPixels;
  }

  // The gradient of a map at one output pixel, plane by plane.
  class MapGradient {
   public:
    // `planes` of each sample.
    __device__ __forceinline__ MapGradient(const ScatterParams& params, void* gradient,
                                           const SamplingMap& map, OutputPixel at, int32_t planes,
                                           int32_t sample)
        : narrow_(sizeof(Element) == 2 && map.dtype != Dtype::kF32) {
      const ConvShape& shape = params.shape;
      const int size = narrow_ ? 2 : 4;
      const int32_t plane = shape.output_pixels_per_image();
      const int64_t first = (int64_t{at.n} * shape.D * shape.taps() + sample) * planes;
      at_ = static_cast<uint8_t*>(gradient) + (first * plane + at.p * shape.Q + at.q) * size;
      step_ = int64_t{plane} * size;
    }
    __device__ __forceinline__ void store(int ahead, float value) const {
      uint8_t* const to = at_ + ahead * step_;
      if constexpr (sizeof(Element) == 2) {
        if (narrow_) return narrow(value, *reinterpret_cast<Element*>(to));
      }
      *reinterpret_cast<float*>(to) = value;
    }
    __device__ __forceinline__ void advance(int planes) { at_ += planes * step_; }

   private:
    const bool narrow_;
    uint8_t* at_;
    int64_t step_;  // bytes to the next plane
  };

  // Of a sample: its top-left corner, which may lie outside the image, and what is left over.
  struct Position {
    int32_t y0, x0;
    float ly, lx, mask;
    float fill;  // NaN where a coordinate is, otherwise 0
    bool inside;
    bool has[4];  // which corners the image has

    __device__ __forceinline__ float weight(int k) const {
      return (k & 2 ? ly : 1.f - ly) * (k & 1 ? lx : 1.f - lx);
    }
  };
  __device__ __forceinline__ Position position_at(int32_t tap, float dy, float dx,
                                                  float mask) const {
    const ConvShape& shape = params_.shape;
    // Whole numbers, as long as offsets are not added.
    const float2 place = tap_places()[tap];
    const float y = (origin_y_ + place.x) + dy, x = (origin_x_ + place.y) + dx;
    Position at;
    at.inside = y > -1.f && y < shape.H && x > -1.f && x < shape.W;
    at.fill = y == y && x == x ? 0.f : std::numeric_limits<float>::quiet_NaN();
    at.mask = mask;
    const Floored row = floored(at.inside ? y : 0.f), column = floored(at.inside ? x : 0.f);
    at.y0 = row.corner, at.x0 = column.corner;
    at.ly = row.fraction, at.lx = column.fraction;
    const bool top = at.inside && at.y0 >= 0, bottom = at.inside && at.y0 < shape.H - 1;
    const bool left = at.x0 >= 0, right = at.x0 < shape.W - 1;
    at.has[0] = top && left, at.has[1] = top && right;
    at.has[2] = bottom && left, at.has[3] = bottom && right;
    return at;
  }
  // -1: none of the window's.
  __device__ __forceinline__ int32_t bin_of(const Position& at) const {
    const int32_t row = at.y0 - tile_.bin_y, column = at.x0 - tile_.bin_x;
    const bool within =
        at.inside && static_cast<uint32_t>(row) < static_cast<uint32_t>(params_.window.rows) &&
        static_cast<uint32_t>(column) < static_cast<uint32_t>(params_.window.columns);
    return within ? row * params_.window.columns + column : -1;
  }

  // A pixel inside is read for a corner outside, too; its dot product is dropped.
  __device__ __forceinline__ void sampling_gradients(const Position& position,
                                                     const float (&gradient)[kBlockChannels],
                                                     int32_t i, int32_t block,
                                                     const MapGradient& to_offset,
                                                     const MapGradient& to_mask) const {
    const ConvShape& shape = params_.shape;
    const int64_t plane =
        (int64_t{tile_.n} * shape.D + tile_.offset_group) * params_.blocks.count + block;
    const Block* const image =
        static_cast<const Block*>(params_.image) + plane * (shape.H * shape.W);
    const int32_t top = max(position.y0, 0) * shape.W;
    const int32_t bottom = min(position.y0 + 1, shape.H - 1) * shape.W;
    const int32_t left = max(position.x0, 0), right = min(position.x0 + 1, shape.W - 1);
    const int32_t corner[4] = {top + left, top + right, bottom + left, bottom + right};
    Block pixel[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) load(image + corner[k], pixel[k]);
    float dot[4] = {};
#pragma unroll
    for (int c = 0; c < kBlockChannels; ++c) {
#pragma unroll
      for (int k = 0; k < 4; ++k) dot[k] = fmaf(gradient[c], widen(pixel[k].lane[c]), dot[k]);
    }
    if (block > 0) {
      const float4 so_far = shared_.dots[i];
      dot[0] += so_far.x, dot[1] += so_far.y, dot[2] += so_far.z, dot[3] += so_far.w;
    }
    if (block + 1 < params_.blocks.count) {
      shared_.dots[i] = make_float4(dot[0], dot[1], dot[2], dot[3]);
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) dot[k] = position.has[k] ? dot[k] : 0.f;
    // As Sample's derivatives.
    const Sample<float> sample{0, 0, position.ly, position.lx, 0, position.fill};
    if (params_.grad_offset != nullptr) {
      to_offset.store(0, position.mask * sample.d_dy(dot[0], dot[1], dot[2], dot[3]));
      to_offset.store(1, position.mask * sample.d_dx(dot[0], dot[1], dot[2], dot[3]));
    }
    if (params_.grad_mask != nullptr) {
      to_mask.store(0, sample.interpolate(dot[0], dot[1], dot[2], dot[3]));
    }
  }

  // Into the count of a bin, or to memory.
  __device__ __forceinline__ void land(const Position& position,
                                       const float (&gradient)[kBlockChannels],
                                       const ScatterBlock& at, int32_t i, int32_t block) const {
    const int32_t bin = bin_of(position);
    if (block == 0) {
      uint32_t landed = kNowhere;
      if (bin >= 0) {
        landed = bin | atomicAdd(shared_.begins + bin, 1u) << kBinBits;
        shared_.place[i].set(position.ly, position.lx, position.mask);
      }
      shared_.landed()[i] = landed;
    }
    // A weight of 0 times what is not finite would be NaN: the lists have finite products alone.
    float total = 0.f;
#pragma unroll
    for (const float g : gradient) total += g;
    constexpr float kMost = std::numeric_limits<float>::max();
    const bool finite = fabsf(total * position.mask) <= kMost;
    if ((finite && bin >= 0) || !position.inside) return;
    if (!finite) {
#pragma unroll
      for (int v = 0; v < Block::kVectors; ++v) {
        shared_.gradient[v * kScatterSamples + i] = {};
      }
      if (!(fabsf(position.mask) <= kMost)) shared_.place[i].mask = 0.f;
    }
    const ConvShape& shape = params_.shape;
    const int32_t channels = params_.layout.channels;
    float* const sums =
        params_.grad_input + at.channel +
        (int64_t{tile_.n} * shape.H * shape.W + position.y0 * shape.W + position.x0) * channels;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float weight = position.weight(k) * position.mask;
      // A corner of weight zero is touched by no gradient.
      if (!position.has[k] || weight == 0.f) continue;
      float* const to = sums + int64_t{Sample<float>::corner_step(k, shape.W)} * channels;
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

  static __device__ __forceinline__ void load(const Block* from, Block& block) {
#pragma unroll
    for (int v = 0; v < Block::kVectors; ++v) {
      reinterpret_cast<uint4*>(&block)[v] = __ldg(reinterpret_cast<const uint4*>(from) + v);
    }
  }
  __device__ __forceinline__ void load_gradient(int32_t i,
                                                float (&gradient)[kBlockChannels]) const {
    Block block;
    auto* const vector = reinterpret_cast<uint4*>(&block);
#pragma unroll
    for (int v = 0; v < Block::kVectors; ++v) {
      vector[v] = shared_.gradient[v * kScatterSamples + i];
    }
#pragma unroll
    for (int c = 0; c < kBlockChannels; ++c) gradient[c] = widen(block.lane[c]);
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
  OutputPixel at_;
  bool exists_;
  float origin_y_, origin_x_;  // of tap 0
};

}  // namespace dcn
