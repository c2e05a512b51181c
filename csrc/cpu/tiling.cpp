#include "tiling.h"

#include <algorithm>

namespace dcn::cpu {
namespace {

// Pixels of a tile's row. The tap positions of 16 x 8 pixels overlap more than those of a strip of
// 128, so fewer input pixels pass through the cache; and 16 values of f32 are one cache line of an
// NCHW offset, mask or output.
constexpr int32_t kTileWidth = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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
  std::vector<ColumnBlock> blocks;
  const int32_t channels = shape.channels_per_group(), taps = shape.taps();
  const int64_t of_group = int64_t{taps} * channels;
  const auto whole = [&](int32_t group) { return group * of_group; };
  if (shape.G > 1 && of_group <= max_values) {
    const int64_t parts = ceil_div(shape.G, max_values / of_group);
    for (int64_t part = 0; part < parts; ++part) {
      const Range groups = part_of(shape.G, parts, part);
      const int32_t begin = static_cast<int32_t>(groups.begin);
      blocks.push_back(
          {begin, static_cast<int32_t>(groups.end), 0, taps, 0, channels, whole(begin)});
    }
    return blocks;
  }
  const int64_t taps_at_once = std::clamp<int64_t>(max_values / channels, 1, taps);
  const int64_t tap_parts = ceil_div(taps, taps_at_once);
  const int64_t channel_parts = tap_parts < taps ? 1 : ceil_div(channels, max_values);
  for (int32_t group = 0; group < shape.G; ++group) {
    for (int64_t tap_part = 0; tap_part < tap_parts; ++tap_part) {
      const Range t = part_of(taps, tap_parts, tap_part);
      for (int64_t channel_part = 0; channel_part < channel_parts; ++channel_part) {
        const Range c = part_of(channels, channel_parts, channel_part);
        blocks.push_back({group, group + 1, static_cast<int32_t>(t.begin),
                          static_cast<int32_t>(t.end), static_cast<int32_t>(c.begin),
                          static_cast<int32_t>(c.end),
                          whole(group) + t.begin * channels + c.begin});
      }
    }
  }
  return blocks;
}

std::vector<OffsetGroupRuns> offset_group_runs(const ConvShape& shape, const ColumnBlock& block) {
  std::vector<OffsetGroupRuns> all;
  const int32_t of_group = shape.channels_per_group();
  const int32_t of_offset_group = shape.channels_per_offset_group();
  for (int32_t d = 0; d < shape.D; ++d) {
    OffsetGroupRuns runs{d, {}};
    for (int32_t group = block.group_begin; group < block.group_end; ++group) {
      const int32_t first = group * of_group + block.channel_begin;
      const int32_t begin = std::max(first, d * of_offset_group);
      const int32_t end = std::min(first + block.channels(), (d + 1) * of_offset_group);
      if (begin < end) {
        runs.runs.push_back({group - block.group_begin, begin, begin - first, end - begin});
      }
    }
    if (!runs.runs.empty()) all.push_back(std::move(runs));
  }
  return all;
}

}  // namespace dcn::cpu
