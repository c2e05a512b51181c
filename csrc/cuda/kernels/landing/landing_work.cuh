// What the kernels of landing lists share: the call and its workspace, planes of samples, and where
// a sample lands.
#pragma once

#include "../../../fast_divide.h"
#include "../fused/fused_params.h"
#include "../kernel_setup.h"
#include "../sampling.cuh"
#include "landing_lists.h"

namespace dcn {

static_assert(sizeof(LandingRecord) == kLandingRecordBytes &&
              sizeof(uint32_t) == kLandingStartBytes);

struct HeavyBin {
  uint32_t bin;
  int32_t begin, end;  // of its records, which are in order of arrival
  int32_t unused;
};
static_assert(sizeof(HeavyBin) == kHeavyBinBytes);

struct LandingWork {
  LandingParams call;
  uint32_t samples, bins, planes;
  Divisor pixels, images, output_width, taps, kernel_width;
  Divisor plane_starts;  // bins of a plane, and where the last one ends
  Divisor bands;         // of a plane
  uint32_t band_bins;
  int32_t offset_step, mask_step;  // bytes from pixel to pixel of a plane, -1 where they differ
  bool keeps_bins;                 // in shared memory, of a plane
  uint32_t* starts;
  HeavyBin* heavy_bins;
  float* heavy_rows;
  uint32_t* places;
  LandingRecord* records;
};

// The samples of a tap and offset group in one image, and their bins.
struct Plane {
  uint32_t index;
  int32_t image;  // of the chunk
  int32_t map, r, s;
};
__device__ __forceinline__ Plane plane_at(const LandingWork& work, uint32_t index) {
  const int32_t map = work.images.quotient(index);
  const int32_t tap = map - work.taps.quotient(map) * work.taps.value;
  const int32_t r = work.kernel_width.quotient(tap);
  return {index, static_cast<int32_t>(index - map * work.images.value), map, r,
          static_cast<int32_t>(tap - r * work.kernel_width.value)};
}

__device__ __forceinline__ OutputPixel output_pixel(const LandingWork& work, const Plane& plane,
                                                    uint32_t pixel) {
  const int32_t p = work.output_width.quotient(pixel);
  return {work.call.first_image + plane.image, p,
          static_cast<int32_t>(pixel - p * work.output_width.value)};
}

// Loading and reading a value of a map are apart, so that several loads are on their way.
__device__ __forceinline__ uint32_t load_bits(const SamplingMap& map, int64_t index) {
  if (map.dtype == Dtype::kF32) return __ldg(static_cast<const uint32_t*>(map.data) + index);
  return __ldg(static_cast<const uint16_t*>(map.data) + index);
}
__device__ __forceinline__ float value_of(const SamplingMap& map, uint32_t bits) {
  if (map.dtype == Dtype::kF16) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
  }
  return __uint_as_float(map.dtype == Dtype::kBF16 ? bits << 16 : bits);
}

struct OffsetBits {
  uint32_t y, x;
};
__device__ __forceinline__ OffsetBits load_offset(const LandingWork& work, const Plane& plane,
                                                  OutputPixel at) {
  const SamplingMap& map = work.call.offset;
  return {load_bits(map, map_index(map, at, 2 * plane.map)),
          load_bits(map, map_index(map, at, 2 * plane.map + 1))};
}
struct Point {
  float y, x;
};
__device__ __forceinline__ Point point_at(const LandingWork& work, const Plane& plane,
                                          OutputPixel at, OffsetBits bits) {
  const SamplingMap& map = work.call.offset;
  const ConvShape& shape = work.call.shape;
  return {shape.origin_y(at.p, plane.r) + value_of(map, bits.y),
          shape.origin_x(at.q, plane.s) + value_of(map, bits.x)};
}
__device__ __forceinline__ Sample<float> sample_at(const LandingWork& work, Point at) {
  return make_sample(at.y, at.x, work.call.shape.H, work.call.shape.W);
}
__device__ __forceinline__ float mask_at(const LandingWork& work, const Plane& plane,
                                         OutputPixel at) {
  const SamplingMap& map = work.call.mask;
  if (map.data == nullptr) return 1.f;
  return value_of(map, load_bits(map, map_index(map, at, plane.map)));
}

constexpr uint32_t kNoBin = ~0u;
// The bin within the plane, or kNoBin.
__device__ __forceinline__ uint32_t bin_of(const LandingWork& work, const Sample<float>& sample) {
  if (sample.corners == 0) return kNoBin;
  return (sample.y0 + 1) * (work.call.shape.W + 1) + (sample.x0 + 1);
}

// The sum of `value` over the lanes before this one, and of all lanes.
__device__ __forceinline__ uint32_t scan_lanes(uint32_t value, int lane, uint32_t& total) {
  uint32_t sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t before = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += before;
  }
  total = __shfl_sync(~0u, sum, 31);
  return sum - value;
}

__device__ __forceinline__ uint32_t start_of(uint32_t begin, uint32_t count) {
  return count > kHeavyBin ? begin | kHeavyStart : begin;
}

// A thread of each call does.
__device__ __forceinline__ void clear_no_record(const LandingWork& work) {
  static_assert(kFirstRecord == 1);
  work.records[0] = {};
}

// For landing_heavy.cu. The bin's records are there.
__device__ __forceinline__ void note_heavy(const LandingWork& work, uint32_t bin, uint32_t begin,
                                           uint32_t count) {
  const uint32_t heavy = atomicAdd(work.call.heavy_count, 1u);
  work.heavy_bins[heavy] = {bin, static_cast<int32_t>(begin), static_cast<int32_t>(begin + count),
                            0};
  work.records[begin].mask = __uint_as_float(heavy);
}

// landing_planes.cu, landing_sort.cu: records and starts. landing_heavy.cu: sums of heavy bins.
cudaError_t launch_landing_planes(const LandingWork& work, cudaStream_t stream);
cudaError_t launch_landing_sort(const LandingWork& work, cudaStream_t stream);
cudaError_t launch_landing_heavy(const LandingWork& work, int64_t most_heavy_bins,
                                 cudaStream_t stream);

}  // namespace dcn
