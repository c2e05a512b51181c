#include "tiling.h"

#include <algorithm>

namespace dcn::cpu {
namespace {

// Pixels of a tile's row. The tap positions of 16 x 8 pixels overlap more than those of a strip of
// 128, so fewer input pixels pass through the cache; and 16 values of f32 are one cache line of an
// NCHW offset, mask or output.
constexpr int32_t kTileWidth = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts of [0, channels) of at most `limit`; at multiples of `unit` where it is less than the
// limit, so that vectors stay whole.
std::vector<Range> channel_parts(int64_t channels, int64_t limit, int64_t unit) {
  if (unit > limit || channels % unit != 0) unit = 1;
  const int64_t units = channels / unit;
  const int64_t parts = ceil_div(units, limit / unit);
  std::vector<Range> ranges;
  for (int64_t i = 0; i < parts; ++i) {
    const Range range = part_of(units, parts, i);
    ranges.push_back({range.begin * unit, range.end * unit});
  }
  return ranges;
}

}  // namespace

TileGrid::TileGrid(const ConvShape& shape, int64_t max_pixels, int64_t min_tiles)
    : images_(shape.N), P_(shape.P), Q_(shape.Q) {
  const int64_t wanted =
      std::max<int64_t>(shape.output_pixels() / std::max<int64_t>(min_tiles, 1), 1);
  const int64_t pixels = std::min(max_pixels, wanted);
  const int64_t width = std::min<int64_t>({kTileWidth, shape.Q, pixels});
  tiles_q_ = static_cast<int32_t>(ceil_div(shape.Q, width));
  const int64_t widest = ceil_div(shape.Q, tiles_q_);
  const int64_t height = std::clamp<int64_t>(pixels / widest, 1, shape.P);
  tiles_p_ = static_cast<int32_t>(ceil_div(shape.P, height));
  max_tile_pixels_ = static_cast<int32_t>(widest * ceil_div(shape.P, tiles_p_));
}

Tile TileGrid::operator[](int64_t index) const {
  const int64_t within = index % per_image();
  const Range rows = part_of(P_, tiles_p_, within / tiles_q_);
  const Range cols = part_of(Q_, tiles_q_, within % tiles_q_);
  return {static_cast<int32_t>(index / per_image()), static_cast<int32_t>(rows.begin),
          static_cast<int32_t>(cols.begin), static_cast<int32_t>(rows.end - rows.begin),
          static_cast<int32_t>(cols.end - cols.begin)};
}

std::vector<ColumnBlock> column_blocks(const ConvShape& shape, int64_t max_values) {
  const int32_t channels = shape.channels_per_group(), taps = shape.taps();
  const int32_t of_offset_group = shape.channels_per_offset_group();
  const int64_t of_group = int64_t{taps} * channels;
  // Where a group does not fit: whole offset groups with all their taps, as neighbouring taps
  // sample the same pixels; else some taps with all channels, as a sample is then planned once;
  // else part of the channels of one tap.
  std::vector<Range> group_parts{{0, shape.G}}, tap_parts{{0, taps}}, c_parts{{0, channels}};
  if (of_group <= max_values) {
    group_parts = channel_parts(shape.G, max_values / of_group, 1);
  } else {
    group_parts = channel_parts(shape.G, 1, 1);
    const int64_t channels_at_once = max_values / taps;
    if (of_offset_group < channels && of_offset_group <= channels_at_once) {
      c_parts = channel_parts(channels, channels_at_once, of_offset_group);
    } else {
      tap_parts = channel_parts(taps, std::max<int64_t>(max_values / channels, 1), 1);
      c_parts = channel_parts(channels, max_values, 16);
    }
  }
  std::vector<ColumnBlock> blocks;
  int64_t first_value = 0;
  for (const Range& g : group_parts) {
    for (const Range& t : tap_parts) {
      for (const Range& c : c_parts) {
        blocks.push_back({static_cast<int32_t>(g.begin), static_cast<int32_t>(g.end),
                          static_cast<int32_t>(t.begin), static_cast<int32_t>(t.end),
                          static_cast<int32_t>(c.begin), static_cast<int32_t>(c.end), first_value});
        first_value += int64_t{blocks.back().groups()} * blocks.back().gemm_k();
      }
    }
  }
  return blocks;
}

std::vector<ChannelRun> channel_runs(const ConvShape& shape, const ColumnBlock& block) {
  std::vector<ChannelRun> runs;
  const int32_t of_group = shape.channels_per_group();
  const int32_t of_offset_group = shape.channels_per_offset_group();
  for (int32_t d = 0; d < shape.D; ++d) {
    for (int32_t group = block.group_begin; group < block.group_end; ++group) {
      const int32_t first = group * of_group + block.channel_begin;
      const int32_t begin = std::max(first, d * of_offset_group);
      const int32_t end = std::min(first + block.channels(), (d + 1) * of_offset_group);
      if (begin >= end) continue;
      runs.push_back(
          {d, group - block.group_begin, begin, end - begin, (begin - first) * block.taps()});
    }
  }
  return runs;
}

}  // namespace dcn::cpu
