// How the input gradient's kernels read landing lists (landing_lists.h), of this CTA's offset
// group.
#pragma once

#include "../dgrad/dgrad_params.h"
#include "../fused/fused_samples.cuh"

namespace dcn {

// Where the starts of a tap's bins in the first image begin.
__device__ __forceinline__ const uint32_t* starts_of(const DgradParams& params, int32_t tap) {
  const ConvShape& shape = params.shape;
  const int32_t group = params.channel_tiles.quotient(blockIdx.y);
  const int32_t channel_tile = blockIdx.y - group * params.channel_tiles.value;
  const int32_t channel =
      group * shape.output_channels_per_group() + channel_tile * params.channels_of_tile;
  const int64_t map =
      channel / params.channels_per_offset_group * shape.taps() + static_cast<int64_t>(tap);
  return params.lists.starts + map * shape.N * params.plane_starts;
}

__device__ __forceinline__ LandingRecord load_record(const DgradParams& params, uint32_t i) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(params.lists.records) + i);
  return {v.x, __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

// The weight of a corner of a record's sample, the mask not included.
__device__ __forceinline__ float corner_weight(const LandingRecord& record, int corner) {
  Sample<float> sample{};
  sample.ly = floored(record.y).fraction;
  sample.lx = floored(record.x).fraction;
  return sample.weight(corner);
}

// Among bins in rows of `width`, the one of the samples that have pixel (y, x) as this corner.
__device__ __forceinline__ int32_t bin_with_corner(int32_t y, int32_t x, int corner,
                                                   int32_t width) {
  return (y + 1) * width + x + 1 - Sample<float>::corner_step(corner, width);
}

}  // namespace dcn
