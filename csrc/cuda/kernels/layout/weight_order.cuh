// Where a weight lies in a packed tile for wgmma: rows are output channels, 128 bytes of gemm_k
// each.
//
// Two permutations make the kernels' lives easy, and cost nothing where weights are packed: gemm_k
// inside a slice, so that a lane's vector of channels is a fragment of A as it comes
// (fused_gather.cuh), and the channels of a tile, so that a lane ends with consecutive ones
// (fprop_epilogue.cuh). Vectors of a row are swizzled as wgmma reads them.
#pragma once

#include "../../../fused_layout.h"

namespace dcn {

// Output channel of the tile at row `row`.
__device__ __forceinline__ int32_t tile_channel(int32_t row) {
  return row / 32 * 32 + row / 2 % 4 * 8 + row / 8 % 4 * 2 + row % 2;
}

// And the row of a channel.
__device__ __forceinline__ int32_t tile_row_of(int32_t channel) {
  return channel / 32 * 32 + channel % 8 / 2 * 8 + channel / 8 % 4 * 2 + channel % 2;
}

// Where the 4 bytes of a row go that lie at 4 * `lane` in the order of the channels. A vector of 16
// bytes of the channels is what a lane of a quad gathers, and its 4 parts are its registers of the
// fragments: of two multiplications, an early and a late one each. So vectors of the row have that
// part of the four lanes. A lane gathers one vector of each half slice, or two neighbours where
// offset groups are narrow.
__device__ __forceinline__ int32_t byte_of_row(int32_t row, int32_t lane, bool narrow) {
  const int32_t vector = lane / 4, part = lane % 4;  // part: 2 * k + late
  const int32_t turn = narrow ? vector % 2 : lane / 16, quad = narrow ? vector / 2 : vector % 4;
  return ((turn * 4 + part) ^ row % 8) * kVectorBytes + quad * 4;
}

}  // namespace dcn
