// The end of a tile of merged groups (fused_plan.h). Its weight is zero where an output and an
// input channel are of different groups, but zero times infinity is NaN: where a row has a value
// that is no number, no sum of the row is one (as in dgrad_sm90.cuh). Such a row is computed again,
// from the channels that an output belongs to alone.
#pragma once

#include "../layout/weight_order.cuh"
#include "fprop_epilogue.cuh"

namespace dcn {

// The weight of output k of a group and that padded channel, as it was packed.
template <class Math>
__device__ __forceinline__ float packed_weight(const FpropParams& params, int32_t group, int32_t k,
                                               int32_t padded, int32_t tap) {
  using Element = typename Math::Element;
  constexpr int kSlice = kSliceBytes / sizeof(Element), kParts = weight_parts(Math::kKind);
  const FusedLayout& layout = params.layout;
  const int32_t block = padded / layout.block_channels;
  const int32_t in_block = padded - block * layout.block_channels, slice = in_block / kSlice;
  const int32_t step = step_of(layout, params.shape.taps(), block, slice, tap);
  const int32_t pieces = tiles_of(params.shape.output_channels_per_group(), kPieceChannels);
  const int32_t row = tile_row_of(k % kPieceChannels);
  const int32_t byte = (in_block - slice * kSlice) * static_cast<int32_t>(sizeof(Element));
  const int64_t tile =
      (int64_t{group} * layout.steps + step) * kParts * pieces + k / kPieceChannels;
  const uint8_t* from = static_cast<const uint8_t*>(params.weight) +
                        (tile * kPieceChannels + row) * kSliceBytes +
                        byte_of_row(row, byte / 4, layout.narrow) + byte % 4;
  float weight = 0.f;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    weight += widen(*reinterpret_cast<const Element*>(from));
    from += int64_t{pieces} * kPieceChannels * kSliceBytes;
  }
  return weight;
}

// The sum of output k of a group at a pixel, the bias not included.
template <class Math>
__device__ __forceinline__ float sum_of_own(const MergedFpropParams& params, int32_t group,
                                            int32_t k, OutputPixel at) {
  using Element = typename Math::Element;
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;
  const int32_t first = params.own_outputs.quotient(k) * params.own_channels;
  const uint32_t row_elements = shape.W * layout.channels;
  const Element* const image = static_cast<const Element*>(params.input) +
                               int64_t{at.n} * shape.H * row_elements +
                               group * layout.group_channels;
  float sum = 0.f;
#pragma unroll 1
  for (int32_t c = first; c < first + params.own_channels; ++c) {
    const int32_t padded = padded_channel(layout, c);
    const int32_t d = params.offset_group.quotient(group * layout.group_channels + padded);
#pragma unroll 1
    for (int32_t tap = 0; tap < shape.taps(); ++tap) {
      const int32_t r = params.kernel_width.quotient(tap), s = tap - r * shape.S;
      const int32_t map = d * shape.taps() + tap;
      const MapCursor<Math> offset(params.offset, at, 2 * map), mask(params.mask, at, map);
      const FusedSample sample =
          fused_sample(shape.origin_y(at.p, r) + offset.value(offset.load(0)),
                       shape.origin_x(at.q, s) + offset.value(offset.load(1)),
                       mask.absent() ? 1.f : mask.value(mask.load(0)), shape.H, shape.W,
                       row_elements, layout.channels, padded);
      float value = sample.weight.x * widen(image[sample.corner.x]);
      value = fmaf(sample.weight.y, widen(image[sample.corner.y]), value);
      value = fmaf(sample.weight.z, widen(image[sample.corner.z]), value);
      value = fmaf(sample.weight.w, widen(image[sample.corner.w]), value);
      if (sample.outside) value = 0.f;
      sum = fmaf(value, packed_weight<Math>(params, group, k, padded, tap), sum);
    }
  }
  return sum;
}

template <class Math>
class MergedOutput : public OutputTile<Math> {
  using Base = OutputTile<Math>;
  using Element = typename Math::Element;

 public:
  __device__ __forceinline__ MergedOutput(const MergedFpropParams& params, const float* bias,
                                          uint8_t* exchange, int32_t group, int32_t first_channel,
                                          const TileRow& row, uint32_t run_rows)
      : Base(params, bias, exchange, group, first_channel, row, run_rows), params_(params) {}

  __device__ __forceinline__ void store(int j, const float (&sums)[kSumsPerStore]) {
    Base::store(j, sums);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!(fabsf(sums[2 * r]) < INFINITY)) again_ |= 1u << (2 * j + r);
    }
  }

  // `row_of`: that of this lane.
  template <class RowOf>
  __device__ __forceinline__ void end(RowOf row_of) const {
    if (__all_sync(~0u, again_ == 0)) return;
    ptx::wait_for_previous_grid();  // each thread reads the weight by itself
    const TileRow row = row_of();
    const int lane = threadIdx.x & 31;
#pragma unroll 1
    for (int r = 0; r < 2; ++r) {
      const int from = lane / 4 + 8 * r;
      const int64_t origin = __shfl_sync(~0u, Base::origin_, from);
      const OutputPixel at{__shfl_sync(~0u, row.at.n, from), __shfl_sync(~0u, row.at.p, from),
                           __shfl_sync(~0u, row.at.q, from)};
      if (origin < 0) continue;
#pragma unroll 1
      for (uint32_t left = again_ >> r & 0x55555555u; left != 0; left &= left - 1) {
        store_again((__ffs(left) - 1) / 2, origin, at);
      }
    }
  }

 private:
  // This lane's channels of store j.
  __device__ __forceinline__ void store_again(int j, int64_t origin, OutputPixel at) const {
    const ConvShape& shape = params_.shape;
    const int32_t per_group = shape.output_channels_per_group();
    const uint32_t tile = ptx::unkept(blockIdx.y), group = params_.channel_tiles.quotient(tile);
    const int32_t first_of_tile = (tile - group * params_.channel_tiles.value) * kPieceChannels;
    const int64_t step = params_.nchw ? shape.output_pixels_per_image() : 1;
    const int32_t first = j * kChannelsPerStore + 8 * (threadIdx.x & 3);  // of the tile
#pragma unroll 1
    for (int32_t i = 0; i < min(per_group - first_of_tile - first, 8); ++i) {
      const int32_t k = first_of_tile + first + i;
      const float sum = sum_of_own<Math>(params_, group, k, at);
      narrow(sum + Base::bias_[j * kChannelsPerStore + i],
             static_cast<Element*>(params_.output)[origin + (group * per_group + k) * step]);
    }
  }

  const MergedFpropParams& params_;
  uint32_t again_ = 0;  // bit 2 * j + r: row g + 8 * r of store j
};

}  // namespace dcn
