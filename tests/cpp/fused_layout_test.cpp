#include "fused_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "fast_divide.h"
#include "fprop_tiles.h"

namespace dcn {
namespace {

ConvShape shape_of(int32_t C, int32_t D, int32_t G, int32_t R, int32_t S) {
  ConvShape shape;
  shape.N = 1, shape.C = C, shape.H = 16, shape.W = 16;
  shape.K = 2 * G, shape.R = R, shape.S = S;
  shape.P = 16, shape.Q = 16;
  shape.G = G, shape.D = D;
  return shape;
}

// C, D, G: nested either way, equal, neither dividing the other, channels of no whole vector.
constexpr int32_t kGroupings[][3] = {
    {1, 1, 1},   {3, 1, 1},   {8, 1, 1},    {20, 1, 1},   {40, 1, 1},  {64, 1, 1},   {65, 1, 1},
    {96, 1, 1},  {130, 1, 1}, {512, 1, 1},  {64, 16, 1},  {24, 4, 1},  {128, 16, 1}, {20, 2, 1},
    {30, 2, 1},  {64, 4, 1},  {64, 2, 1},   {128, 2, 1},  {192, 2, 1}, {260, 2, 1},  {1040, 16, 1},
    {64, 64, 1}, {128, 1, 2}, {96, 1, 3},   {128, 1, 32}, {24, 1, 24}, {130, 1, 2},  {128, 2, 2},
    {256, 4, 2}, {128, 2, 4}, {128, 4, 32}, {384, 3, 2},  {384, 2, 3}, {768, 4, 6},  {12, 3, 2},
    {30, 2, 3},  {48, 4, 6},  {140, 2, 2},  {6, 6, 6},    {90, 6, 10}, {2048, 8, 4},
};
constexpr int32_t kKernels[][2] = {{1, 1}, {2, 3}, {3, 3}, {5, 1}, {1, 10}, {4, 4}, {7, 7}};

struct Call {
  ConvShape shape;
  int bytes;
  FusedLayout layout;
};

std::vector<Call> all_calls() {
  std::vector<Call> calls;
  for (const auto& [C, D, G] : kGroupings) {
    for (const auto& [R, S] : kKernels) {
      for (const int bytes : {2, 4}) {
        const ConvShape shape = shape_of(C, D, G, R, S);
        calls.push_back({shape, bytes, fused_layout(shape, bytes)});
      }
    }
  }
  return calls;
}

std::string name_of(const Call& call) {
  const ConvShape& s = call.shape;
  return "C " + std::to_string(s.C) + ", D " + std::to_string(s.D) + ", G " + std::to_string(s.G) +
         ", " + std::to_string(s.R) + "x" + std::to_string(s.S) + ", " +
         std::to_string(call.bytes) + " bytes";
}

TEST(FusedLayout, SegmentsShareBothGroups) {
  for (const Call& call : all_calls()) {
    SCOPED_TRACE(name_of(call));
    const FusedLayout& layout = call.layout;
    for (int32_t c = 0; c < call.shape.C; ++c) {
      const int32_t first = c / layout.segment * layout.segment;
      const int32_t per_group = call.shape.channels_per_group();
      const int32_t per_offset_group = call.shape.channels_per_offset_group();
      ASSERT_EQ(c / per_group, first / per_group);
      ASSERT_EQ(c / per_offset_group, first / per_offset_group);
    }
  }
}

TEST(FusedLayout, PaddingIsToWholeVectorsAndNoFurther) {
  for (const Call& call : all_calls()) {
    SCOPED_TRACE(name_of(call));
    const FusedLayout& layout = call.layout;
    const int32_t vector = kVectorBytes / call.bytes;
    EXPECT_EQ(layout.padded_segment % vector, 0);
    EXPECT_GE(layout.padded_segment, layout.segment);
    EXPECT_LT(layout.padded_segment - layout.segment, vector);
    EXPECT_EQ(layout.padded(), layout.segment % vector != 0);
    const int32_t segments = call.shape.C / layout.segment;
    EXPECT_EQ(layout.channels, segments * layout.padded_segment);
    EXPECT_EQ(layout.channels, layout.group_channels * call.shape.G);
    EXPECT_EQ(layout.channels, layout.offset_channels * call.shape.D);
  }
}

TEST(FusedLayout, BlocksMakeUpAGroup) {
  for (const Call& call : all_calls()) {
    SCOPED_TRACE(name_of(call));
    const FusedLayout& layout = call.layout;
    const int32_t slice = kSliceBytes / call.bytes;
    EXPECT_EQ(layout.blocks * layout.block_channels, layout.group_channels);
    EXPECT_GE(layout.slices * slice, layout.block_channels);
    EXPECT_LT((layout.slices - 1) * slice, layout.block_channels);
    EXPECT_EQ(layout.steps, layout.blocks * layout.slices * call.shape.taps());
    EXPECT_GE(layout.chunk_taps, 1);
    EXPECT_LE(layout.chunk_taps, call.shape.taps());
    if (layout.narrow) continue;
    EXPECT_LE(layout.chunk_taps, kPlanTaps);
    // Channels of a block share their samples.
    for (int32_t first = 0; first < layout.channels; first += layout.block_channels) {
      EXPECT_EQ(first / layout.offset_channels,
                (first + layout.block_channels - 1) / layout.offset_channels);
    }
  }
}

TEST(FusedLayout, IsNarrowWhereASliceMeetsSeveralOffsetGroups) {
  const auto narrow = [](int32_t C, int32_t D, int32_t G, int bytes) {
    return fused_layout(shape_of(C, D, G, 3, 3), bytes).narrow;
  };
  EXPECT_FALSE(narrow(3, 1, 1, 2));  // one offset group: however few its channels are
  EXPECT_FALSE(narrow(64, 1, 32, 2));
  EXPECT_FALSE(narrow(128, 4, 32, 2));  // each group has one
  EXPECT_FALSE(narrow(24, 24, 24, 4));
  EXPECT_TRUE(narrow(128, 16, 1, 2));
  EXPECT_TRUE(narrow(128, 16, 1, 4));
  EXPECT_TRUE(narrow(64, 2, 1, 2));  // 32 channels: 64 bytes of 16 bits, 128 of f32
  EXPECT_FALSE(narrow(64, 2, 1, 4));
  EXPECT_FALSE(narrow(128, 2, 1, 2));
  EXPECT_TRUE(narrow(384, 3, 2, 2));  // offset groups that reach over a convolution group's end
}

TEST(FusedStep, WalkVisitsEachTapOfEachSliceOnceInOrder) {
  for (const Call& call : all_calls()) {
    SCOPED_TRACE(name_of(call));
    const FusedLayout& layout = call.layout;
    const int32_t taps = call.shape.taps();
    std::vector<std::array<int32_t, 4>> expected;  // block > chunk of taps > slice > tap
    for (int32_t block = 0; block < layout.blocks; ++block) {
      for (int32_t first = 0; first < taps; first += layout.chunk_taps) {
        for (int32_t slice = 0; slice < layout.slices; ++slice) {
          for (int32_t tap = first; tap < taps && tap < first + layout.chunk_taps; ++tap) {
            expected.push_back({block, first, slice, tap});
          }
        }
      }
    }
    ASSERT_EQ(static_cast<int32_t>(expected.size()), layout.steps);
    std::set<std::array<int32_t, 3>> visited;
    for (int32_t step = 0; step < layout.steps; ++step) {
      const FusedStep at = step_at(layout, taps, step);
      const std::array<int32_t, 4> found{at.block, at.first_tap, at.slice, at.tap};
      ASSERT_EQ(found, expected[step]) << "step " << step;
      ASSERT_EQ(step_of(layout, taps, at.block, at.slice, at.tap), step);
      visited.insert({at.block, at.slice, at.tap});
    }
    EXPECT_EQ(static_cast<int32_t>(visited.size()), layout.steps);
  }
}

TEST(UnpaddedChannel, IsTheInverseOfPadding) {
  for (const Call& call : all_calls()) {
    SCOPED_TRACE(name_of(call));
    const FusedLayout& layout = call.layout;
    int32_t next = 0;  // each channel of the group once, in order
    for (int32_t padded = 0; padded < layout.group_channels; ++padded) {
      const bool zero = padded % layout.padded_segment >= layout.segment;
      ASSERT_EQ(unpadded_channel(layout, padded), zero ? -1 : next) << "padded " << padded;
      if (!zero) ASSERT_EQ(padded_channel(layout, next++), padded);
    }
    EXPECT_EQ(next, call.shape.channels_per_group());
  }
}

constexpr uint32_t kLargest = std::numeric_limits<int32_t>::max();

void expect_exact(uint32_t divisor) {
  const Divisor by(divisor);
  EXPECT_EQ(by.value, divisor);
  std::vector<uint32_t> dividends{0, 1, 2, kLargest - 2, kLargest - 1, kLargest, kLargest / 2};
  // Quotients change at multiples of the divisor.
  for (const uint64_t multiple : {1u, 2u, 3u, 1000u, kLargest / divisor / 2, kLargest / divisor}) {
    for (const int64_t by_one : {-1, 0, 1}) {
      const int64_t dividend = static_cast<int64_t>(multiple * divisor) + by_one;
      if (dividend >= 0 && dividend <= kLargest) dividends.push_back(dividend);
    }
  }
  for (uint64_t bit = 1; bit <= kLargest; bit *= 2) {
    dividends.push_back(static_cast<uint32_t>(bit));
    dividends.push_back(static_cast<uint32_t>(bit - 1));
  }
  for (const uint32_t dividend : dividends) {
    ASSERT_EQ(by.quotient(dividend), dividend / divisor) << dividend << " / " << divisor;
  }
}

TEST(Divisor, IsExact) {
  for (uint32_t divisor = 1; divisor <= 300; ++divisor) expect_exact(divisor);
  for (uint32_t power = 512; power <= kLargest / 2 + 1; power *= 2) {
    expect_exact(power - 1);
    expect_exact(power);
    expect_exact(power + 1);
  }
  for (const uint32_t large : {kLargest - 2, kLargest - 1, kLargest, 46341u, 65537u, 715827883u}) {
    expect_exact(large);
  }
}

TEST(WindowCells, CoverEachImageOnceAndAreNotTaller) {
  for (const FpropTile& tile : kFpropTiles) {
    if (!tile.narrow || tile.architecture != 90) continue;
    const int32_t most = tile.pixels / kWarpPixels;
    for (const int32_t P : {1, 7, 16, 25, 64, 180, 1000}) {
      for (const int32_t N : {1, 3, 32}) {
        for (const int64_t at_once : {1, 66, 132}) {
          ConvShape shape = shape_of(64, 8, 1, 3, 3);
          shape.N = N, shape.P = P, shape.Q = 50;
          const WindowCells cells = window_cells(shape, tile, at_once);
          EXPECT_EQ(cells.columns, 4);
          EXPECT_EQ(cells.tall_rows, most);
          EXPECT_LE(cells.rows, most);
          const int32_t low = cells.strips - cells.tall_strips;
          const int32_t left = P - cells.tall_strips * most;
          EXPECT_EQ(low, left > 0 ? tiles_of(left, cells.rows) : 0) << P << " rows";
          // Never more rows in turn than whole cells would be.
          EXPECT_LE(rows_in_turn(shape, cells, at_once),
                    tiles_of(int64_t{N} * 4 * tiles_of(P, most), at_once) * (most + kRowsOfATurn));
        }
      }
    }
  }
}

// Two cells on each of the 132 multiprocessors of an H200: one of 16 rows, one of 12.
TEST(WindowCells, OfTheBenchmarkEndAtTheSameTime) {
  ConvShape shape = shape_of(128, 16, 1, 3, 3);
  shape.P = 180, shape.Q = 320;
  const WindowCells cells = window_cells(shape, {256, 64, true}, 132);
  EXPECT_EQ(tiles_in(shape, cells), 260);
  EXPECT_EQ(rows_in_turn(shape, cells, 132), 28 + 2 * kRowsOfATurn);  // 27.3 would do
}

// Of images that fit at once, the last strip is no lower than the others by more than a row.
TEST(WindowCells, OfOneTurnAreOfOneHeight) {
  ConvShape shape = shape_of(64, 8, 1, 3, 3);
  shape.N = 16, shape.P = 25, shape.Q = 42;
  const WindowCells cells = window_cells(shape, {256, 64, true}, 132);
  EXPECT_EQ(tiles_in(shape, cells), 96);
  EXPECT_EQ(rows_in_turn(shape, cells, 132), 13 + kRowsOfATurn);
}

TEST(Divisor, IsExactForEverySmallDividend) {
  for (uint32_t divisor = 1; divisor <= 300; ++divisor) {
    const Divisor by(divisor);
    for (uint32_t dividend = 0; dividend < 5000; ++dividend) {
      ASSERT_EQ(by.quotient(dividend), dividend / divisor);
    }
  }
}

TEST(Divisor, OfNothingIsByOne) {
  EXPECT_EQ(Divisor().quotient(0), 0u);
  EXPECT_EQ(Divisor().quotient(kLargest), kLargest);
}

}  // namespace
}  // namespace dcn
