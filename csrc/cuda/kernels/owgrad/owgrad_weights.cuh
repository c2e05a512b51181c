// The weight of a unit in shared memory: 64 input channels of one tap by the output channels of the
// tile, as the gradient columns' product reads it.
#pragma once

#include "../ptx_sm90.cuh"
#include "../wgrad/wgrad_segments.cuh"
#include "owgrad_params.h"

namespace dcn {

constexpr int kWeightSliceBytes = kPieceChannels * kSliceBytes;

// The packed weight has its output channels in the order of fragments (pack_weight.cu); here they
// lie in their own, as those of grad in shared memory do. Of half a row of a slice, that is a
// transposition of four vectors. Rows, input channels, keep the packed order: a lane's gradient
// columns are neighbours.
//
// All threads of a warpgroup do this, and then meet.
template <class Config>
__device__ __forceinline__ void load_unit_weight(const OwgradParams& params,
                                                 const WgradSegments<Config>& segment,
                                                 const WgradUnit& unit, uint32_t to, int thread) {
  static_assert(Config::kSliceChannels == kPieceChannels);
  constexpr int kSlices = Config::kChannels / Config::kSliceChannels;
  const FusedLayout& layout = params.grad_layout;
  const int32_t tiles = params.layout.group_channels / kPieceChannels;
  const int32_t channel = unit.channel - segment.group * params.layout.group_channels;
  const int32_t chunk_begin = unit.tap / layout.chunk_taps * layout.chunk_taps;
  const int32_t chunk_taps = min(layout.chunk_taps, params.shape.taps() - chunk_begin);
  const int32_t first_slice = segment.first_k / Config::kSliceChannels;
  const int32_t step =
      chunk_begin * layout.slices + first_slice * chunk_taps + unit.tap - chunk_begin;
  const int row = thread / 2, half = thread % 2 * 4;
  const uint8_t* const from =
      static_cast<const uint8_t*>(params.weight) +
      ((int64_t{segment.group} * layout.steps + step) * tiles + channel / kPieceChannels) *
          kWeightSliceBytes +
      row * kSliceBytes;
  const auto place = [&](int i) { return ((half + i) ^ row % 8) * kVectorBytes; };
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    uint4 packed[4] = {};
    if (first_slice + s < layout.slices) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        packed[i] = __ldg(reinterpret_cast<const uint4*>(
            from + int64_t{s * chunk_taps * tiles} * kWeightSliceBytes + place(i)));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::store_vector(to + s * kWeightSliceBytes + row * kSliceBytes + place(i),
                        {register_of(packed[0], i), register_of(packed[1], i),
                         register_of(packed[2], i), register_of(packed[3], i)});
    }
  }
}

}  // namespace dcn
