// How the fused algorithm walks gemm_k: the order of its steps, and the channels it pads.
//
// A step multiplies one tap of one slice: 128 bytes of the channels of one convolution group (64
// channels of 16 bits or 32 of f32). Steps run through
//
//   block (channels that share their samples) > chunk of taps > slice > tap
//
// so that the samples of a chunk are planned once, and so that a slice of a tile's neighbourhood,
// which is what the L1 holds, serves all its taps before the next slice is touched. The packed
// weights lie in the same order: the kernel reads them front to back.
#pragma once

#include <numeric>

#include "shape.h"

namespace dcn {

constexpr int kSliceBytes = 128;
constexpr int kVectorBytes = 16;  // one load of a lane: its channels must share a sample
constexpr int kSliceVectors = kSliceBytes / kVectorBytes;
// Samples planned at one time by a warp, for each of its 16 pixels: 3x3 kernels at once.
constexpr int kPlanTaps = 9;

// The convolution from the output back to the input: what the input gradient multiplies. Where its
// samples are follows from the offsets of this one, so it has none of its own.
inline ConvShape transposed(const ConvShape& shape) {
  ConvShape back = shape;
  back.C = shape.K;
  back.H = shape.P;
  back.W = shape.Q;
  back.K = shape.C;
  back.P = shape.H;
  back.Q = shape.W;
  back.D = 1;
  return back;
}

// Small convolution groups side by side, run as one: its weight is zero where an output and an
// input channel are of different groups.
inline ConvShape merged(const ConvShape& shape, int32_t groups) {
  ConvShape run = shape;
  run.G /= groups;
  return run;
}

struct FusedLayout {
  int32_t segment = 0;          // consecutive channels that share convolution and offset group
  int32_t padded_segment = 0;   // the same, with zeros up to a whole vector
  int32_t channels = 0;         // of the padded image
  int32_t group_channels = 0;   // of one convolution group, padded
  int32_t offset_channels = 0;  // of one offset group, padded
  int32_t block_channels = 0;   // of a block
  int32_t blocks = 0;           // in a convolution group
  int32_t slices = 0;           // in a block
  int32_t chunk_taps = 0;       // taps of a chunk (the last may have fewer)
  int32_t steps = 0;            // in a convolution group
  bool narrow = false;  // a slice meets several offset groups: lanes plan samples of their own

  DCN_HOST_DEVICE bool padded() const { return segment != padded_segment; }
};

inline FusedLayout fused_layout(const ConvShape& shape, int element_bytes) {
  const int32_t vector = kVectorBytes / element_bytes, slice = kSliceBytes / element_bytes;
  const int32_t per_group = shape.channels_per_group();
  const int32_t per_offset_group = shape.channels_per_offset_group();
  FusedLayout layout;
  layout.segment = std::gcd(per_group, per_offset_group);
  layout.padded_segment = (layout.segment + vector - 1) / vector * vector;
  const auto pad = [&](int32_t channels) {
    return channels / layout.segment * layout.padded_segment;
  };
  layout.channels = pad(shape.C);
  layout.group_channels = pad(per_group);
  layout.offset_channels = pad(per_offset_group);
  const bool whole = per_offset_group % per_group == 0;  // one offset group serves each group
  const bool wide = layout.segment == per_offset_group && layout.offset_channels >= slice;
  layout.narrow = !whole && !wide;
  layout.block_channels = whole || layout.narrow ? layout.group_channels : layout.offset_channels;
  layout.blocks = layout.group_channels / layout.block_channels;
  layout.slices = (layout.block_channels + slice - 1) / slice;
  layout.chunk_taps = layout.narrow || shape.taps() < kPlanTaps ? shape.taps() : kPlanTaps;
  layout.steps = layout.blocks * layout.slices * shape.taps();
  return layout;
}

// Where a step is in that order.
struct FusedStep {
  int32_t block, first_tap, slice, tap;  // first_tap: of the chunk
};
DCN_HOST_DEVICE FusedStep step_at(const FusedLayout& layout, int32_t taps, int32_t step) {
  const int32_t per_block = layout.slices * taps;
  const int32_t block = step / per_block;
  int32_t rest = step - block * per_block;
  const int32_t per_chunk = layout.slices * layout.chunk_taps;
  const int32_t first_tap = rest / per_chunk * layout.chunk_taps;
  rest -= first_tap * layout.slices;
  const int32_t left = taps - first_tap;
  const int32_t chunk = left < layout.chunk_taps ? left : layout.chunk_taps;
  const int32_t slice = rest / chunk;
  return {block, first_tap, slice, first_tap + rest - slice * chunk};
}

// The step of a tap of a slice.
DCN_HOST_DEVICE int32_t step_of(const FusedLayout& layout, int32_t taps, int32_t block,
                                int32_t slice, int32_t tap) {
  const int32_t first_tap = tap / layout.chunk_taps * layout.chunk_taps, left = taps - first_tap;
  const int32_t chunk = left < layout.chunk_taps ? left : layout.chunk_taps;
  return (block * taps + first_tap) * layout.slices + slice * chunk + tap - first_tap;
}

// The channel of the caller's convolution group that a padded one holds, or -1 for a zero.
DCN_HOST_DEVICE int32_t unpadded_channel(const FusedLayout& layout, int32_t padded) {
  const int32_t segment = padded / layout.padded_segment;
  const int32_t inside = padded - segment * layout.padded_segment;
  return inside < layout.segment ? segment * layout.segment + inside : -1;
}
// And where that channel is.
DCN_HOST_DEVICE int32_t padded_channel(const FusedLayout& layout, int32_t channel) {
  const int32_t segment = channel / layout.segment;
  return segment * layout.padded_segment + channel - segment * layout.segment;
}

}  // namespace dcn
