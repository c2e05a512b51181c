// The forward pass of small convolution groups that run as one, executed by the emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fprop_run.h"

namespace emulation {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// N C H W K R S G D: 32 groups, depthwise with one output channel a channel and with three, ragged
// channels that are padded, groups of more outputs than inputs and fewer, several offset groups:
// each of whole merged groups, narrower, and narrower than a group.
constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3, 8},
    {2, 128, 7, 11, 128, 3, 3, 128},
    {1, 64, 9, 8, 192, 3, 3, 64, 1, 2, 1, 1, /*mask=*/false},
    {1, 30, 7, 19, 45, 3, 3, 15},
    {1, 20, 6, 9, 8, 5, 1, 4},
    {1, 40, 9, 7, 80, 7, 7, 4, 1, 1, 3},
    {1, 128, 9, 9, 64, 3, 3, 32, 2},
    {2, 64, 18, 20, 64, 3, 3, 16, 8},
    {1, 64, 9, 17, 64, 3, 3, 8, 32},
    {1, 36, 9, 13, 24, 2, 3, 12, 6, 1, 1, 2},
};

template <class Math>
class Merged : public testing::Test {
 protected:
  // How the plan would run it, with that tile.
  static GemmRun run_of(const Sizes& sizes, int tile, int split_k) {
    GemmRun run;
    run.tile = tile;
    run.split_k = split_k;
    run.merged = dcn::merged_groups(shape_of(sizes), Math::kKind, 90);
    return run;
  }
  static bool fits(const Sizes& sizes, const GemmRun& run) {
    return dcn::tile_merges(dcn::kFpropTiles[run.tile], Math::kKind) &&
           fprop_fits(dcn::merged(shape_of(sizes), run.merged), Math::kKind, run.tile, run.split_k);
  }
  static void expect_right(const Convolution& conv, const GemmRun& run, uint32_t number) {
    seed(number);
    EXPECT_LT(error_of(run_fprop<Math>(conv, run), conv.output()), kTolerance<Math>)
        << "tile " << run.tile << ", sizes " << number << ", split " << run.split_k;
  }
};
TYPED_TEST_SUITE(Merged, Maths);

TYPED_TEST(Merged, EveryTile) {
  constexpr bool kShortMaps = kBits<TypeParam> < 24;
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      ++number;
      GemmRun run = this->run_of(sizes, tile, 1 + static_cast<int>(number + tile) % 3);
      ASSERT_GT(run.merged, 1);
      run.nchw = (number + tile) % 2 == 0;
      run.short_offset = run.short_mask = kShortMaps && number % 3 == 0;
      if (!this->fits(sizes, run)) continue;
      Convolution conv(sizes, kBits<TypeParam>, /*spread=*/number % 3 == 0 ? 2.f : 0.5f, number);
      if (run.short_offset) conv.round_offset(kBits<TypeParam>);
      if (run.short_mask) conv.round_mask(kBits<TypeParam>);
      this->expect_right(conv, run, number);
    }
  }
}

// Pixels of some channels, the first one included, which samples outside read; coordinates of some
// offset group; a weight; a mask.
TYPED_TEST(Merged, NoNumberStaysInItsGroup) {
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      GemmRun run = this->run_of(sizes, tile, 1 + static_cast<int>(++number) % 2);
      run.nchw = (number + tile) % 2 == 1;
      run.short_offset = kBits<TypeParam> < 24 && number % 2 == 1;
      if (!this->fits(sizes, run)) continue;
      Convolution conv(sizes, kBits<TypeParam>, /*spread=*/1.f, number);
      if (run.short_offset) conv.round_offset(kBits<TypeParam>);
      const int pixels = sizes.H * sizes.W, outputs = conv.shape.output_pixels_per_image();
      conv.image[2] = kInfinity;
      conv.image[(pixels / 2) * sizes.C + 5] = -kInfinity;
      conv.image[(pixels / 3) * sizes.C + sizes.C - 1] = kNaN;
      const int map = (conv.shape.D - 1) * conv.shape.taps() + 1;
      conv.offset[2 * map * outputs + outputs / 2] = kNaN;
      conv.offset[1 * outputs + outputs / 3] = kInfinity;
      conv.weight[7] = kInfinity;
      conv.mask[map * outputs + outputs / 4] = kNaN;
      const std::vector<double> wanted = conv.output();
      const auto finite = std::count_if(wanted.begin(), wanted.end(),
                                        [](double value) { return std::isfinite(value); });
      ASSERT_GT(finite, static_cast<int64_t>(wanted.size()) / 2);
      ASSERT_LT(finite, static_cast<int64_t>(wanted.size()));
      this->expect_right(conv, run, number);
    }
  }
}

// A sum that only f32 holds is as infinite in f16 as it is alone, and its neighbours are not.
TEST(MergedF16, WhatF16DoesNotHoldIsInfinite) {
  const Sizes sizes{1, 64, 9, 9, 64, 1, 1, 8, 1, 1, 0, 1, /*mask=*/false};
  Convolution conv(sizes, 11, 0.f, 1);
  for (int c = 0; c < 8; ++c) conv.image[40 * 64 + c] = conv.weight[c] = 256.f;
  GemmRun run;
  run.merged = 8;
  const std::vector<float> got = run_fprop<dcn::MathF16>(conv, run);
  EXPECT_EQ(got[40 * 64], kInfinity);
  for (int k = 8; k < 64; ++k) EXPECT_TRUE(std::isfinite(got[40 * 64 + k]));
}

}  // namespace
}  // namespace emulation
