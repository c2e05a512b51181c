// The end of a tile of merged groups (fused_plan.h). Its weight is zero where an output and an
// input channel are of different groups, but zero times infinity is NaN: where a row has a value
// that is no number, no sum of the row is one (as in dgrad_sm90.cuh). Such a row is computed again,
// from the channels that an output belongs to alone, in f32.
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

// `Own` computes a sum from an output's own channels: of(params, group, output, pixel).
template <class Math, class Own>
class MergedOutput : public OutputTile<Math> {
  using Base = OutputTile<Math>;
  using Element = typename Math::Element;
  using Params = typename Own::Params;

 public:
  __device__ __forceinline__ MergedOutput(const Params& params, const float* bias,
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
    if (params_.merged.count == 1 || __all_sync(~0u, again_ == 0)) return;
    ptx::wait_for_previous_grid();  // each thread reads the weight by itself
    __syncwarp();                   // other lanes have stored what is written over
    const TileRow row = row_of();
#pragma unroll 1
    for (int i = 0; i < 2 * kPieceChannels / kChannelsPerStore; ++i) {
      uint32_t lanes = __ballot_sync(~0u, again_ >> i & 1u);
#pragma unroll 1
      while (lanes != 0) {
        const int quad = (__ffs(lanes) - 1) / 4, from = quad + 8 * (i % 2);
        lanes &= ~(0xfu << 4 * quad);
        const int64_t origin = __shfl_sync(~0u, Base::origin_, from);
        const OutputPixel at{__shfl_sync(~0u, row.at.n, from), __shfl_sync(~0u, row.at.p, from),
                             __shfl_sync(~0u, row.at.q, from)};
        if (origin >= 0) store_again(i / 2, origin, at);
      }
    }
  }

 private:
  // This lane's channel of store j.
  __device__ __forceinline__ void store_again(int j, int64_t origin, OutputPixel at) const {
    const ConvShape& shape = params_.shape;
    const int32_t per_group = shape.output_channels_per_group();
    const uint32_t tile = ptx::unkept(blockIdx.y), group = params_.channel_tiles.quotient(tile);
    const int32_t lane = threadIdx.x & 31, in_tile = j * kChannelsPerStore + lane;
    const int32_t k = (tile - group * params_.channel_tiles.value) * kPieceChannels + in_tile;
    if (k >= per_group) return;
    const int64_t step = params_.nchw ? shape.output_pixels_per_image() : 1;
    const float bias = Base::bias_[in_tile - 8 * (lane & 3)];
    narrow(Own::of(params_, group, k, at) + bias,
           static_cast<Element*>(params_.output)[origin + (group * per_group + k) * step]);
  }

  const Params& params_;
  uint32_t again_ = 0;  // bit 2 * j + r: row g + 8 * r of store j
};

}  // namespace dcn
