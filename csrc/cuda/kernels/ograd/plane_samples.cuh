// The samples of a plane, a tap and offset group in one image, as landing_planes.cu walks them.
#pragma once

#include "../landing/landing_work.cuh"
#include "../ptx_sm80.cuh"

namespace dcn {

constexpr int kPlaneThreads = 1024;
constexpr int kPlaneInFlight = 4;  // samples of a thread

// A sample's pixel is its place in the plane.
struct PlaneSample {
  uint32_t pixel, bin;  // bin: where it lands, within the plane
};

// The samples of a plane, whose offsets are `Offset` in memory: what make_sample (bilinear.h) says,
// without a branch and without conversions, which are slow: what a sample costs is instructions.
// kEven: pixels of a plane lie evenly in memory. Floors are taken as in make_paired_sample.
template <typename Offset, bool kEven>
class PlaneSamples {
 public:
  __device__ __forceinline__ PlaneSamples(const LandingWork& work, const Plane& plane)
      : work_(work),
        origin_y_(work.call.shape.origin_y(0, plane.r)),
        origin_x_(work.call.shape.origin_x(0, plane.s)),
        per_column_(1.f / work.call.shape.Q),
        row_bins_(work.call.shape.W + 1),
        first_bin_((1 - kFloorBits) * (row_bins_ + 1)),
        offset_(first_of(work.call.offset, work, plane, 2 * plane.map)),
        mask_(first_of(work.call.mask, work, plane, plane.map)) {}

  // Asks for the maps, from which a walk takes a little at a time; if all of their lines are its
  // own.
  __device__ __forceinline__ void prefetch() const {
    if constexpr (kEven) {
      const int64_t dx = work_.call.offset.stride_c * static_cast<int64_t>(sizeof(Offset));
      if (work_.offset_step == static_cast<int32_t>(sizeof(Offset))) {
        const uint32_t bytes = work_.pixels.value * sizeof(Offset);
        for (uint32_t at = threadIdx.x * kLine; at < bytes; at += kPlaneThreads * kLine) {
          ptx::prefetch(offset_ + at);
          ptx::prefetch(offset_ + dx + at);
        }
      }
      if (work_.mask_step <= static_cast<int32_t>(sizeof(float))) {
        const uint32_t mask_bytes = work_.pixels.value * work_.mask_step;
        for (uint32_t at = threadIdx.x * kLine; at < mask_bytes; at += kPlaneThreads * kLine) {
          ptx::prefetch(mask_ + at);
        }
      }
    }
  }

  // Calls take(samples) for those of each thread, kPlaneInFlight at a time; beyond the last they
  // have no bin.
  template <class Take>
  __device__ __forceinline__ void walk(Take take) const {
    const uint32_t pixels = work_.pixels.value;
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < pixels; first += kPlaneThreads * kPlaneInFlight) {
      Loaded loaded[kPlaneInFlight];
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) {
        loaded[i] = load(min(first + i * kPlaneThreads, pixels - 1));
      }
      PlaneSample sample[kPlaneInFlight];
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) {
        sample[i].pixel = first + i * kPlaneThreads;
        sample[i].bin = bin_of(point_of(loaded[i]), sample[i].pixel < pixels);
      }
      take(sample);
    }
  }

  // Writes the records of the pixels that pixel_of(0), pixel_of(1), ... say, where
  // place_of(samples, numbers) says; the last ones of a call may be beyond `count`.
  template <class PixelOf, class PlaceOf>
  __device__ __forceinline__ void write(LandingRecord* records, uint32_t count, uint32_t first_row,
                                        PixelOf pixel_of, PlaceOf place_of) const {
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < count; first += kPlaneThreads * kPlaneInFlight) {
      Loaded loaded[kPlaneInFlight];
      PlaneSample sample[kPlaneInFlight];
      uint32_t mask[kPlaneInFlight], place[kPlaneInFlight];
      Point at[kPlaneInFlight];
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) {
        place[i] = min(first + i * kPlaneThreads, count - 1);
        sample[i].pixel = pixel_of(place[i]);
        loaded[i] = load(sample[i].pixel);
        mask[i] = load_mask(sample[i].pixel, loaded[i].p);
      }
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) {
        at[i] = point_of(loaded[i]);
        sample[i].bin = bin_of(at[i], true);
      }
      place_of(sample, place);
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) {
        if (first + i * kPlaneThreads >= count) break;
        records[place[i]] = {first_row + sample[i].pixel, at[i].y, at[i].x, mask_of(mask[i])};
      }
    }
  }

 private:
  static constexpr uint32_t kLine = 128;
  static constexpr float kFloor = 12582912.f;
  static constexpr uint32_t kFloorBits = 0x4B400000;

  struct Loaded {
    float p, q;  // of the pixel
    Offset y, x;
  };

  static __device__ __forceinline__ int64_t bytes_of(const SamplingMap& map, int64_t values) {
    return values * (map.dtype == Dtype::kF32 ? 4 : 2);
  }
  static __device__ __forceinline__ const uint8_t* first_of(const SamplingMap& map,
                                                            const LandingWork& work,
                                                            const Plane& plane, int32_t channel) {
    const OutputPixel first{work.call.first_image + plane.image, 0, 0};
    return static_cast<const uint8_t*>(map.data) + bytes_of(map, map_index(map, first, channel));
  }
  // The value at a pixel of row p, of a map's plane that begins at `first`.
  __device__ __forceinline__ const uint8_t* value_at(const SamplingMap& map, int32_t step,
                                                     const uint8_t* first, uint32_t pixel,
                                                     float p) const {
    if constexpr (kEven) return ptx::step_ahead(first, static_cast<int32_t>(pixel), step);
    const auto row = static_cast<int32_t>(p);
    const int32_t column = static_cast<int32_t>(pixel) - row * work_.call.shape.Q;
    return first + bytes_of(map, int64_t{row} * map.stride_h + int64_t{column} * map.stride_w);
  }

  // There are fewer than 2^16 pixels, so that a quotient of floats is exact enough.
  __device__ __forceinline__ Loaded load(uint32_t pixel) const {
    const SamplingMap& map = work_.call.offset;
    const float place = __uint_as_float(0x4B000000 | pixel) - 8388608.f;
    const float p = __fadd_rd(fmaf(place, per_column_, 0.5f * per_column_), kFloor) - kFloor;
    const auto* from =
        reinterpret_cast<const Offset*>(value_at(map, work_.offset_step, offset_, pixel, p));
    return {p, fmaf(-p, work_.call.shape.Q, place), __ldg(from), __ldg(from + map.stride_c)};
  }
  __device__ __forceinline__ Point point_of(const Loaded& loaded) const {
    const ConvShape& shape = work_.call.shape;
    return {fmaf(loaded.p, shape.stride_h, origin_y_) + widen(loaded.y),
            fmaf(loaded.q, shape.stride_w, origin_x_) + widen(loaded.x)};
  }
  __device__ __forceinline__ uint32_t load_mask(uint32_t pixel, float p) const {
    const SamplingMap& map = work_.call.mask;
    if (map.data == nullptr) return 0;
    const uint8_t* const at = value_at(map, work_.mask_step, mask_, pixel, p);
    return map.dtype == Dtype::kF32 ? __ldg(reinterpret_cast<const uint32_t*>(at))
                                    : __ldg(reinterpret_cast<const uint16_t*>(at));
  }
  __device__ __forceinline__ float mask_of(uint32_t bits) const {
    return work_.call.mask.data == nullptr ? 1.f : value_of(work_.call.mask, bits);
  }
  // (y0 + 1) * (W + 1) + x0 + 1.
  __device__ __forceinline__ uint32_t bin_of(Point at, bool exists) const {
    const ConvShape& shape = work_.call.shape;
    const bool inside =
        exists & (at.y > -1.f) & (at.y < shape.H) & (at.x > -1.f) & (at.x < shape.W);
    const uint32_t bin = __float_as_uint(__fadd_rd(at.y, kFloor)) * row_bins_ +
                         __float_as_uint(__fadd_rd(at.x, kFloor)) + first_bin_;
    return inside ? bin : kNoBin;
  }

  const LandingWork& work_;
  const float origin_y_, origin_x_, per_column_;
  const uint32_t row_bins_, first_bin_;
  const uint8_t *const offset_, *const mask_;  // of the first sample
};

}  // namespace dcn
