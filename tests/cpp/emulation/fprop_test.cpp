// The forward pass of compute capability 9.0, executed by the emulator.
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <set>

#include "fprop_run.h"

namespace emulation {
namespace {

// Ragged channels, blocks and groups of them, several chunks of taps, samples outside, several
// images.
constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3},
    {2, 20, 7, 19, 40, 3, 3},
    {1, 72, 8, 7, 136, 3, 3, 1, 1, 2, 1},
    {1, 128, 6, 9, 72, 3, 3, 2, 2},
    {1, 128, 6, 9, 320, 3, 2, 1, 2, 1, 1, 1, /*mask=*/false},
    {3, 3, 5, 4, 5, 5, 1, 1, 1, 1, 2},
    {1, 8, 7, 7, 64, 7, 7, 1, 1, 1, 3},
    // Lines of whole vectors of 4, 8 and 2 pixels.
    {2, 24, 6, 20, 40, 3, 3},
    {2, 24, 5, 24, 40, 3, 3},
    {2, 24, 5, 10, 40, 3, 3},
};

// Offset groups narrower than a slice, of 8, 4, 6, 10, 15, 16, 32 and 1 channels: lanes plan
// samples of their own. The first image is large enough for warps whose samples are all inside it;
// others are smaller than a tile.
constexpr Sizes kNarrowSizes[] = {
    {1, 64, 21, 40, 72, 3, 3, 1, 8},
    {3, 32, 4, 3, 40, 3, 3, 1, 8},
    {1, 30, 9, 20, 64, 3, 3, 1, 5, 1, 1, 1, /*mask=*/false},
    {2, 80, 8, 11, 24, 3, 2, 2, 8, 1, 1, 2},
    {1, 45, 10, 17, 33, 3, 3, 1, 3, 2, 1, 1},
    {2, 96, 7, 7, 130, 5, 1, 1, 6},
    {1, 96, 9, 18, 64, 1, 1, 1, 3, 1, 0, 1},
    {1, 64, 9, 13, 64, 3, 3, 1, 64},
    // Maps that are copied: whole cells of pixels, vectors aligned; then no mask, and others.
    {2, 64, 18, 32, 40, 3, 3, 1, 8},
    {1, 160, 11, 40, 64, 3, 3, 1, 10},
    {1, 64, 9, 48, 24, 3, 3, 1, 16, 1, 1, 1, /*mask=*/false},
    {1, 64, 9, 32, 24, 2, 2, 1, 4, 1, 1, 2, /*mask=*/false},
};

template <class Math>
class Fprop : public testing::Test {};
TYPED_TEST_SUITE(Fprop, Maths);

TYPED_TEST(Fprop, EveryTile) {
  constexpr bool kShortMaps = kBits<TypeParam> < 24;
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      ++number;
      GemmRun run;
      run.tile = tile;
      run.split_k = 1 + static_cast<int>(number + tile) % dcn::kMostParts;
      run.nchw = number % 2 == 0 || sizes.W % 2 == 0;
      run.short_offset = kShortMaps && (number + tile) % 3 == 0;
      run.short_mask = kShortMaps && (number + tile) % 3 != 1;
      if (!fprop_fits(shape_of(sizes), TypeParam::kKind, tile, run.split_k)) continue;
      seed(number);
      Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, number);
      if (run.short_offset) conv.round_offset(kBits<TypeParam>);
      if (run.short_mask) conv.round_mask(kBits<TypeParam>);
      EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>)
          << "tile " << tile << ", sizes " << number;
    }
  }
}

// Even and odd numbers of steps, one step for a set of warps, a last slice that is short, samples
// outside, two taps; without a split and with each.
TYPED_TEST(Fprop, WarpsThatTakeTurns) {
  constexpr Sizes kOfTurns[] = {{1, 256, 9, 9, 256, 3, 3},
                                {2, 72, 7, 19, 320, 3, 3},
                                {1, 128, 11, 8, 72, 1, 2, 1, 1, 1, 0},
                                {1, 64, 6, 9, 40, 3, 3, 1, 1, 1, 1, 2, /*mask=*/false}};
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    if (dcn::kFpropTiles[tile].turns == 1) continue;
    uint32_t number = 0;
    for (const Sizes& sizes : kOfTurns) {
      ++number;
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, number);
      for (int split_k = 1; split_k <= dcn::kMostParts; ++split_k) {
        GemmRun run;
        run.tile = tile;
        run.split_k = split_k;
        run.nchw = split_k % 2 == 0;
        if (!fprop_fits(conv.shape, TypeParam::kKind, tile, split_k)) continue;
        seed(number);
        EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>)
            << "tile " << tile << ", sizes " << number << ", split " << split_k;
      }
    }
  }
}

TYPED_TEST(Fprop, EveryNarrowTile) {
  constexpr bool kShortMaps = kBits<TypeParam> < 24;
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    if (!dcn::kFpropTiles[tile].narrow) continue;
    uint32_t number = 0;
    for (const Sizes& sizes : kNarrowSizes) {
      ++number;
      GemmRun run;
      run.tile = tile;
      run.split_k = 1 + static_cast<int>(number + tile) % 3;
      run.nchw = number % 2 == 0 || sizes.W % 2 == 0;
      run.short_offset = kShortMaps && (number + tile) % 2 == 0;
      run.short_mask = number % 5 == 0 ? kShortMaps : run.short_offset;
      if (!fprop_fits(shape_of(sizes), TypeParam::kKind, tile, run.split_k)) continue;
      seed(number);
      Convolution conv(sizes, kBits<TypeParam>, /*spread=*/number % 3 == 0 ? 2.f : 0.5f, number);
      if (run.short_offset) conv.round_offset(kBits<TypeParam>);
      if (run.short_mask) conv.round_mask(kBits<TypeParam>);
      EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>)
          << "tile " << tile << ", sizes " << number;
    }
  }
}

// Wide and narrow tiles, with their weights in a ring and resident, several tiles for a CTA.
TEST(SplitWeight, EveryTile) {
  const auto run_sizes = [](const auto& every) {
    for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
      uint32_t number = 0;
      for (const Sizes& sizes : every) {
        ++number;
        GemmRun run;
        run.tile = tile;
        run.split_k = 1 + static_cast<int>(number + tile) % 3;
        run.nchw = number % 2 == 0;
        run.whole = true;
        if (!fprop_fits(shape_of(sizes), dcn::FusedMath::k3xTf32, tile, run.split_k)) continue;
        seed(number);
        const Convolution conv(sizes, kBits<dcn::Math3xTf32>, /*spread=*/2.f, number);
        EXPECT_LT(error_of(run_fprop<dcn::Math3xTf32>(conv, run), conv.output()),
                  kTolerance<dcn::Math3xTf32>)
            << "tile " << tile << ", sizes " << number;
      }
    }
  };
  run_sizes(kSizes);
  run_sizes(kNarrowSizes);
}

// Some lanes of a warp read the image, others the window, and some samples are outside.
TYPED_TEST(Fprop, OffsetsBeyondTheWindow) {
  for (int tile = 0; tile < dcn::kFpropTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes :
         {Sizes{1, 64, 17, 52, 24, 3, 3, 1, 8}, Sizes{1, 64, 40, 16, 24, 3, 3, 1, 16},
          Sizes{1, 45, 9, 50, 33, 3, 3, 1, 3}}) {
      GemmRun run;
      run.tile = tile;
      if (!fprop_fits(shape_of(sizes), TypeParam::kKind, tile, run.split_k)) continue;
      seed(++number);
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/number % 2 == 0 ? 4.f : 12.f,
                             number);
      EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>)
          << "tile " << tile << ", sizes " << number;
    }
  }
}

TYPED_TEST(Fprop, NoNumberStaysWhereItBelongs) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Sizes& sizes :
       {Sizes{1, 64, 9, 9, 64}, Sizes{1, 20, 9, 9, 64}, Sizes{1, 64, 9, 9, 64, 3, 3, 1, 8},
        Sizes{1, 30, 20, 40, 64, 3, 3, 1, 5}}) {
    Convolution conv(sizes, kBits<TypeParam>, 2.f, 1);
    conv.image[1000] = kInfinity;
    conv.image[2] = kInfinity;  // samples outside the image read its first pixel
    conv.offset[50] = std::numeric_limits<float>::quiet_NaN();
    conv.offset[1200] = kInfinity;
    GemmRun run;
    run.split_k = 2;
    while (!fprop_fits(conv.shape, TypeParam::kKind, run.tile, run.split_k)) ++run.tile;
    EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>);
  }
}

// Samples on the line before the first row or column are outside: they read no pixel of it.
TYPED_TEST(Fprop, ALineOutsideReadsNoPixel) {
  const Sizes sizes{1, 64, 21, 40, 72, 3, 3, 1, 8};
  Convolution conv(sizes, kBits<TypeParam>, 0.f, 1);
  for (const int pixel : {20, 8 * 40}) {
    for (int channel = 0; channel < 64; channel += 5) {
      conv.image[pixel * 64 + channel] = std::numeric_limits<float>::infinity();
    }
  }
  GemmRun run;
  while (!fprop_fits(conv.shape, TypeParam::kKind, run.tile, run.split_k)) ++run.tile;
  EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>);
}

// Lines of every remainder, strips that are lower than a cell, several images.
TEST(PixelWalk, EveryPixelOnce) {
  for (const int height : {4, 8, 16}) {
    for (const int p : {1, 5, 16, 19}) {
      for (int q = 1; q <= 50; ++q) {
        const dcn::ConvShape shape = shape_of({2, 8, p, q, 8});
        ASSERT_EQ(shape.P, p);
        ASSERT_EQ(shape.Q, q);
        const dcn::PixelWalk walk = dcn::pixel_walk(shape, height);
        std::set<int> found;
        for (int i = 0; i < 2 * p * q; ++i) {
          const dcn::OutputPixel at = dcn::pixel_at(shape, walk, i);
          ASSERT_TRUE(at.n < 2 && 0 <= at.p && at.p < p && 0 <= at.q && at.q < q);
          EXPECT_EQ(at.n, i / (p * q));
          found.insert((at.n * p + at.p) * q + at.q);
        }
        EXPECT_EQ(found.size(), size_t{2} * p * q) << height << ' ' << p << ' ' << q;
      }
    }
  }
}

TEST(Prefetch, WholeVectorsOfWhatLiesTogether) {
  const dcn::ConvShape shape = shape_of({2, 64, 9, 8, 64});
  alignas(16) static uint8_t memory[2 * 18 * 9 * 8 * 4 + 16];
  const dcn::Prefetch whole = dcn::prefetch_of(map_of(shape, memory, 18), shape, 18);
  EXPECT_EQ(whole.begin, memory);
  EXPECT_EQ(whole.bytes, 2 * 18 * 9 * 8 * 4);
  const dcn::Prefetch inside = dcn::prefetch_of(memory + 4, 100);
  EXPECT_EQ(inside.begin, memory + 16);
  EXPECT_EQ(inside.bytes, 80);
  EXPECT_EQ(dcn::prefetch_of(memory + 4, 24).bytes, 0);
  EXPECT_EQ(dcn::prefetch_of(memory, dcn::kMostPrefetched + 16).bytes, 0);
  EXPECT_EQ(dcn::prefetch_of(nullptr, 64).bytes, 0);
  dcn::SamplingMap cut = map_of(shape, memory, 18);
  cut.stride_n *= 2;
  EXPECT_EQ(dcn::prefetch_of(cut, shape, 18).bytes, 0);
}

// What tensor cores cut a moved weight off to is the rounded one, and the rest is exact.
TEST(SplitWeight, TwoPartsOfWhatWasMoved) {
  const auto float_of = [](uint32_t bits) { return __uint_as_float(bits); };
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const uint32_t sign = i % 2 << 31, exponent = i % 254 << 23;  // from 0 on: denormal numbers
    const uint32_t mantissa = i % 7 == 0 ? random() % 64 * 0x1000 : random() % (1 << 23);
    const float weight = float_of(sign | exponent | mantissa);
    const uint32_t moved = dcn::to_be_split(weight), leading = moved & ~0x1fffu;
    EXPECT_EQ(leading, dcn::ptx::round_to_tf32(weight));
    EXPECT_EQ(double{float_of(leading)} + double{float_of(dcn::trailing_of(moved))}, weight);
  }
  EXPECT_EQ(dcn::trailing_of(dcn::to_be_split(0.f)), 0);
}

// In a window of zeros around the image, a sample is worth 0 times its weight.
TYPED_TEST(Fprop, AMaskThatIsNoNumberInF16) {
  const Sizes sizes{1, 64, 21, 40, 72, 3, 3, 1, 8};
  Convolution conv(sizes, kBits<TypeParam>, 0.f, 1);
  const int taps = 9, pixels = 21 * 40, tap = 7;  // below the image, in the last row
  for (int group = 0; group < sizes.D; ++group) {
    for (int q = 0; q < 40; ++q) conv.mask[(group * taps + tap) * pixels + 20 * 40 + q] = 1e5f;
  }
  GemmRun run;
  while (!fprop_fits(conv.shape, TypeParam::kKind, run.tile, run.split_k)) ++run.tile;
  EXPECT_LT(error_of(run_fprop<TypeParam>(conv, run), conv.output()), kTolerance<TypeParam>);
}

}  // namespace
}  // namespace emulation
