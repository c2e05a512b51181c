// How a call's work is cut: output pixels into tiles, columns into blocks, tiles over threads.
// Plain values, no tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace dcn::cpu {

// The output of all images as rectangles of nearly equal size, in the order of images, rows,
// columns.
class TileGrid {
 public:
  // Tiles hold at most `max_pixels` (at most kMaxTilePixels), and fewer where there would not be
  // `min_tiles` of them.
  TileGrid(const ConvShape& shape, int64_t max_pixels, int64_t min_tiles);

  int64_t size() const { return int64_t{images_} * per_image(); }
  int64_t per_image() const { return int64_t{tiles_p_} * tiles_q_; }
  int32_t max_tile_pixels() const { return max_tile_pixels_; }
  Tile operator[](int64_t index) const;

 private:
  int32_t images_, P_, Q_, tiles_p_, tiles_q_, max_tile_pixels_;
};

// A part of the columns that is gathered, multiplied and forgotten: taps and channels of some
// convolution groups. Several groups only with all their taps and channels.
struct ColumnBlock {
  int32_t group_begin, group_end;
  int32_t tap_begin, tap_end;
  int32_t channel_begin, channel_end;  // within a group
  int64_t first_value;  // of this block, when all blocks' columns are laid end to end

  int32_t groups() const { return group_end - group_begin; }
  int32_t taps() const { return tap_end - tap_begin; }
  int32_t channels() const { return channel_end - channel_begin; }
  int32_t gemm_k() const { return taps() * channels(); }  // of one group
};

// Blocks whose columns hold at most `max_values` a pixel, where a group's taps and channels can be
// cut so.
std::vector<ColumnBlock> column_blocks(const ConvShape& shape, int64_t max_values);

// Channels that are sampled alike and multiplied together: of one offset group and one convolution
// group of a block. A group's column is its runs one after the other, each as [tap of the
// block][channel of the run].
struct ChannelRun {
  int32_t offset_group;
  int32_t group;    // within the block
  int32_t channel;  // within the image
  int32_t channels;
  int32_t column;  // where the run begins within its group's column
};

// In the order of the offset groups.
std::vector<ChannelRun> channel_runs(const ConvShape& shape, const ColumnBlock& block);

struct Range {
  int64_t begin, end;
};

// Part `index` of `size` items cut into `parts`.
inline Range part_of(int64_t size, int64_t parts, int64_t index) {
  return {size * index / parts, size * (index + 1) / parts};
}

}  // namespace dcn::cpu
