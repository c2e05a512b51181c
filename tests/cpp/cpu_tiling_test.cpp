// How the CPU path cuts its work: every pixel and every value of a column belongs to exactly one
// part.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cpu/problem.h"
#include "cpu/tiling.h"

namespace dcn::cpu {
namespace {

ConvShape shape_of(int32_t N, int32_t C, int32_t size, int32_t K, int32_t kernel, int32_t G,
                   int32_t D) {
  ConvShape shape;
  shape.N = N;
  shape.C = C;
  shape.K = K;
  shape.R = shape.S = kernel;
  shape.H = shape.P = size;
  shape.W = shape.Q = size + 3;
  shape.pad_h = shape.pad_w = kernel / 2;
  shape.G = G;
  shape.D = D;
  return shape;
}

TEST(TileGrid, CoversEveryPixelOnce) {
  for (int32_t size : {1, 2, 7, 16, 33, 100}) {
    for (int64_t min_tiles : {1, 8, 256}) {
      const ConvShape shape = shape_of(2, 4, size, 4, 3, 1, 1);
      const TileGrid grid(shape, kMaxTilePixels, min_tiles);
      std::vector<int> seen(shape.output_pixels());
      for (int64_t i = 0; i < grid.size(); ++i) {
        const Tile tile = grid[i];
        ASSERT_GE(tile.pixels(), 1);
        ASSERT_LE(tile.pixels(), grid.max_tile_pixels());
        for (int32_t p = tile.p; p < tile.p + tile.height; ++p) {
          for (int32_t q = tile.q; q < tile.q + tile.width; ++q) {
            ++seen[(int64_t{tile.n} * shape.P + p) * shape.Q + q];
          }
        }
      }
      EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; })) << size;
      EXPECT_LE(grid.max_tile_pixels(), kMaxTilePixels);
    }
  }
}

TEST(TileGrid, SmallMapsAreCutForEveryThread) {
  EXPECT_GE(TileGrid(shape_of(1, 4, 7, 4, 3, 1, 1), kMaxTilePixels, 8).size(), 8);
  EXPECT_EQ(TileGrid(shape_of(0, 4, 7, 4, 3, 1, 1), kMaxTilePixels, 8).size(), 0);
}

TEST(ColumnBlocks, RunsCoverEveryValueOnce) {
  struct Case {
    int32_t C, G, D, kernel;
    int64_t limit;
  };
  for (const Case& c : {Case{64, 1, 1, 3, 512}, Case{512, 1, 1, 3, 256}, Case{128, 1, 16, 3, 512},
                        Case{12, 2, 3, 3, 1000}, Case{300, 300, 1, 3, 100}, Case{96, 3, 8, 3, 64},
                        Case{1100, 1, 1, 1, 256}, Case{30, 3, 2, 7, 16}}) {
    const ConvShape shape = shape_of(1, c.C, 8, c.G, c.kernel, c.G, c.D);
    int64_t first_value = 0;
    std::vector<int> seen(int64_t{shape.taps()} * shape.C);
    for (const ColumnBlock& block : column_blocks(shape, c.limit)) {
      EXPECT_EQ(block.first_value, first_value);
      first_value += int64_t{block.groups()} * block.gemm_k();
      std::vector<int> columns(int64_t{block.groups()} * block.gemm_k());
      for (const ChannelRun& run : channel_runs(shape, block)) {
        EXPECT_EQ(run.channel / shape.channels_per_offset_group(), run.offset_group);
        for (int32_t i = 0; i < block.taps() * run.channels; ++i) {
          ++columns[run.group * block.gemm_k() + run.column + i];
        }
        for (int32_t tap = block.tap_begin; tap < block.tap_end; ++tap) {
          for (int32_t i = 0; i < run.channels; ++i) ++seen[tap * shape.C + run.channel + i];
        }
      }
      EXPECT_TRUE(std::all_of(columns.begin(), columns.end(), [](int n) { return n == 1; }));
    }
    EXPECT_EQ(first_value, int64_t{shape.taps()} * shape.C);
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; })) << c.C;
  }
}

TEST(ColumnBlocks, StayWithinTheLimitWhereTheyCan) {
  for (const ColumnBlock& block : column_blocks(shape_of(1, 512, 8, 512, 3, 1, 1), 256)) {
    EXPECT_LE(block.gemm_k(), 256);
  }
  // Offset groups stay whole, with all their taps.
  for (const ColumnBlock& block : column_blocks(shape_of(1, 128, 8, 64, 3, 1, 16), 512)) {
    EXPECT_EQ(block.taps(), 9);
    EXPECT_EQ(block.channels() % 8, 0);
    EXPECT_LE(block.gemm_k(), 512);
  }
}

}  // namespace
}  // namespace dcn::cpu
