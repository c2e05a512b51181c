// The samples of the weight gradient of narrow offset groups: a lane has one for each of its warp's
// taps, and leaves its values in shared memory.
#pragma once

#include "fused_samples.cuh"
#include "wgrad_narrow_params.h"

namespace dcn {

// Values of a warp's samples of a step: of a tap, for each vector of 16 bytes along the pixels, 8
// channels.
template <class Element>
struct NarrowValues {
  static constexpr int kVectorPixels = kVectorBytes / sizeof(Element);
  static constexpr int kParts = kNarrowPixels / (4 * kVectorPixels);  // 4 lanes' vectors
  Element value[kParts][kBlockChannels][4 * kVectorPixels];
};

// Units: offset groups > blocks > chunks of taps > panels.
struct NarrowUnit {
  int32_t offset_group, chunk, panel;
  int32_t plane;  // of the image
  ScatterBlock block;

  __device__ __forceinline__ NarrowUnit(const WgradNarrowParams& params, int32_t unit) {
    const WgradNarrowWork& work = params.work;
    int32_t rest = unit / work.panels;
    panel = unit - rest * work.panels;
    plane = rest / work.chunks;
    chunk = rest - plane * work.chunks;
    offset_group = plane / work.blocks.count;
    block = scatter_block(params.layout, work.blocks, offset_group,
                          plane - offset_group * work.blocks.count);
  }
};

// This lane's pixel of a step: its samples of the warp's taps. kFull: as many as a warp may have.
template <class Math, bool kFull>
class NarrowSamples {
 public:
  using Element = typename Math::Element;
  using Values = NarrowValues<Element>;

  __device__ __forceinline__ NarrowSamples(const WgradNarrowParams& params, int32_t plane,
                                           int32_t offset_group, int32_t first_tap, int32_t taps)
      : params_(params),
        plane_(plane),
        map_(offset_group * params.shape.taps() + first_tap),
        first_tap_(first_tap),
        taps_(taps) {}

  // Has the offsets of a step on their way.
  __device__ __forceinline__ void fetch(int32_t step) {
    const uint32_t index = static_cast<uint32_t>(step) * kNarrowPixels + threadIdx.x % 32;
    exists_ = index < params_.pixels;
    pixel_ = pixel_at(params_.shape, params_.walk, min(index, params_.pixels - 1));
    const MapCursor<Math> offset(params_.offset, pixel_, 2 * map_),
        mask(params_.mask, pixel_, map_);
#pragma unroll
    for (int t = 0; t < kNarrowTaps; ++t) {
      const bool has = kFull || t < taps_;
      dy_[t] = has ? offset.load(2 * t) : 0;
      dx_[t] = has ? offset.load(2 * t + 1) : 0;
      modulation_[t] = has ? mask.load(t) : 0;
    }
  }

  // Of the step that was fetched last; loads of one tap are on their way while the one before is
  // mixed. With `more`, fetches the next step. `between`: what else may set out before the last.
  template <class Between>
  __device__ __forceinline__ void run(int32_t step, bool more, Values* values, Between between) {
    constexpr uint32_t kPixelBytes = kBlockChannels * sizeof(Element);
    const ConvShape& shape = params_.shape;
    const int64_t planes = int64_t{shape.D} * params_.work.blocks.count;
    const uint8_t* const image = static_cast<const uint8_t*>(params_.image) +
                                 (pixel_.n * planes + plane_) * shape.H * shape.W * kPixelBytes;
    uint4 corner[2][kVectors][4], weight[kNarrowTaps];
    bool empty[kNarrowTaps];
    FusedSample sample[kNarrowTaps];
    const MapCursor<Math> offset(params_.offset, pixel_, 0), mask(params_.mask, pixel_, 0);
#pragma unroll
    for (int t = 0; t < kNarrowTaps; ++t) {
      const int32_t r = params_.kernel_width.quotient(first_tap_ + t);
      const int32_t s = first_tap_ + t - r * shape.S;
      const float m = mask.absent() ? 1.f : mask.value(modulation_[t]);
      sample[t] =
          fused_sample(static_cast<float>(shape.origin_y(pixel_.p, r)) + offset.value(dy_[t]),
                       static_cast<float>(shape.origin_x(pixel_.q, s)) + offset.value(dx_[t]),
                       exists_ ? m : 0.f, shape.H, shape.W, shape.W * kPixelBytes, kPixelBytes, 0);
      weight[t] = Math::weights(sample[t].weight);
      empty[t] = sample[t].outside || !exists_;
    }
    if (more) fetch(step + 1);
    load(image, sample[0], corner[0]);
    __syncwarp();  // the values of the step before have been read
#pragma unroll
    for (int t = 0; t < kNarrowTaps; ++t) {
      if (t + 1 < kNarrowTaps) {
        load(image, sample[t + 1], corner[(t + 1) % 2]);
      } else {
        between();
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        uint32_t value[4];
        Math::mix(corner[t % 2][v], weight[t], value);
        if (kFull || t < taps_) store(values[t], v, value, empty[t], threadIdx.x % 32);
      }
    }
    __syncwarp();
  }

 private:
  static constexpr int kVectors = sizeof(Element) * kBlockChannels / kVectorBytes;

  static __device__ __forceinline__ void load(const uint8_t* image, const FusedSample& sample,
                                              uint4 (&corner)[kVectors][4]) {
    const uint32_t at[] = {sample.corner.x, sample.corner.y, sample.corner.z, sample.corner.w};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        corner[v][k] = __ldg(reinterpret_cast<const uint4*>(image + at[k] + v * kVectorBytes));
      }
    }
  }
  static __device__ __forceinline__ void store(Values& to, int v, const uint32_t (&value)[4],
                                               bool empty, int lane) {
    constexpr int kRow = 4 * Values::kVectorPixels;
    constexpr int kChannels = kBlockChannels / kVectors;
    Element* const row = to.value[lane / kRow][v * kChannels] + lane % kRow;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const uint32_t bits = empty ? 0 : value[c * 4 / kChannels];
      if constexpr (sizeof(Element) == 2) {
        const auto half = static_cast<uint16_t>(c % 2 == 0 ? bits : bits >> 16);
        *reinterpret_cast<uint16_t*>(row + c * kRow) = half;
      } else {
        *reinterpret_cast<uint32_t*>(row + c * kRow) = bits;
      }
    }
  }

  const WgradNarrowParams& params_;
  const int32_t plane_, map_, first_tap_, taps_;
  OutputPixel pixel_;  // of the step that was fetched
  bool exists_;
  uint32_t dy_[kNarrowTaps], dx_[kNarrowTaps], modulation_[kNarrowTaps];
};

}  // namespace dcn
