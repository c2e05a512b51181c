// The gradients of narrow offset groups, executed by the emulator.
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "scatter_run.h"

namespace emulation {
namespace {

constexpr Sizes kSizes[] = {
    {1, 128, 9, 18, 64, 3, 3, 1, 16},
    {2, 24, 5, 11, 40, 3, 3, 1, 4},
    {2, 16, 17, 35, 20, 3, 3, 1, 2},
    {1, 20, 9, 17, 5, 3, 3, 1, 2, 2, 1},
    {1, 30, 10, 9, 6, 2, 2, 2, 3, 1, 1, 1, /*mask=*/false},
    {1, 48, 7, 19, 72, 3, 3, 6, 4, 1, 2, 2},
    {3, 3, 5, 1, 5, 5, 1, 1, 1, 1, 2},
    {1, 32, 6, 7, 4, 5, 4, 1, 4, 1, 2},
    {1, 16, 4, 40, 4, 3, 3, 2, 8, 3, 2},
    {1, 70, 5, 6, 9, 3, 3, 1, 2},
    {1, 8, 3, 2, 8, 3, 3, 1, 1, 1, 40, 40},
};

template <class Math>
class Scatter : public testing::Test {};
TYPED_TEST_SUITE(Scatter, Maths);

template <class Math>
void expect_gradients(const Convolution& conv, const std::string& what,
                      const ScatterRun& run = {}) {
  const ScatterResult result = run_scatter<Math>(conv, run);
  if (run.with_weight) {
    EXPECT_LT(error_of(result.weight, conv.grad_weight()), kTolerance<Math>) << what;
  }
  EXPECT_LT(error_of(result.input, conv.grad_input()), kTolerance<Math>) << what;
  EXPECT_LT(error_of(result.offset, conv.grad_offset()), kTolerance<Math>) << what;
  if (conv.has_mask) {
    EXPECT_LT(error_of(result.mask, conv.grad_mask()), kTolerance<Math>) << what;
  }
}

TYPED_TEST(Scatter, EverySize) {
  uint32_t number = 0;
  for (const Sizes& sizes : kSizes) {
    ++number;
    // Samples beyond the window's bins, too.
    for (const float spread : {1.f, 6.f}) {
      seed(number);
      expect_gradients<TypeParam>(
          Convolution(sizes, kBits<TypeParam>, spread, number),
          "sizes " + std::to_string(number) + ", spread " + std::to_string(spread));
    }
  }
}

// Usual calls and others; each mixture that reaches the kernels.
TYPED_TEST(Scatter, ShortMaps) {
  if (sizeof(typename TypeParam::Element) == 4) {
    GTEST_SKIP() << "in 32 bits maps are of 32 bits";
  }
  uint32_t number = 0;
  for (const Sizes& sizes : {kSizes[0], kSizes[2], kSizes[3]}) {
    seed(++number);
    for (const bool short_offset : {true, false}) {
      Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, number);
      if (short_offset) conv.round_offset(kBits<TypeParam>);
      conv.round_mask(kBits<TypeParam>);
      ScatterRun run;
      run.short_offset = short_offset;
      run.short_mask = true;
      for (const bool with_weight : {true, false}) {
        run.with_weight = with_weight;
        expect_gradients<TypeParam>(conv,
                                    "sizes " + std::to_string(number) +
                                        (short_offset ? ", short" : ", wide") +
                                        (with_weight ? "" : ", without the weight"),
                                    run);
      }
    }
  }
}

// Where rows of a map lie far apart, as in a slice of a large tensor, 32 bits do not hold how far.
TEST(ScatterMaps, FarApart) {
  dcn::ScatterParams params{};
  params.shape = Convolution(Sizes{1, 8, 9, 17, 8, 3, 3}, 11, 1.f, 1).shape;
  constexpr int64_t kRow = int64_t{1} << 29, kColumn = int64_t{1} << 28;
  params.offset = params.mask = {nullptr, dcn::Dtype::kF32, 0, 1, kRow, kColumn};
  const auto first = dcn::MapPlaces::of(params, {0, 0, 0}, 0, 4, 4);
  const auto moved = first.moved(params, 7, 15, 1, 4, 4);
  const auto expected = dcn::MapPlaces::of(params, {0, 7, 15}, 1, 4, 4);
  EXPECT_EQ(moved.offset, expected.offset);
  EXPECT_EQ(moved.mask, expected.mask);
  EXPECT_EQ(moved.mask - first.mask, 4 * (1 + 7 * kRow + 15 * kColumn));
}

// In the second, windows have to be laid far from their tiles.
TYPED_TEST(Scatter, AllSamplesNearOnePixel) {
  for (const Sizes& sizes : {Sizes{1, 8, 9, 17, 3, 3, 3}, Sizes{1, 16, 10, 40, 3, 3, 3, 1, 2}}) {
    Convolution conv(sizes, kBits<TypeParam>, 0.f, 1);
    const dcn::ConvShape& shape = conv.shape;
    for (int i = 0; i < static_cast<int>(conv.offset.size()); ++i) {
      const int map = i / (shape.P * shape.Q), p = i / shape.Q % shape.P, q = i % shape.Q;
      const int tap = map / 2 % shape.taps();
      conv.offset[static_cast<size_t>(i)] =
          map % 2 == 0 ? 4.25f - static_cast<float>(shape.origin_y(p, tap / 3))
                       : 6.5f - static_cast<float>(shape.origin_x(q, tap % 3));
    }
    expect_gradients<TypeParam>(conv, "one pixel of " + std::to_string(shape.W) + " columns");
  }
}

// Alone, by more and fewer CTAs, and none where it is not wanted.
TYPED_TEST(Scatter, WeightGradient) {
  uint32_t number = 0;
  for (const Sizes& sizes : kSizes) {
    seed(++number);
    const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, number);
    ScatterRun run;
    run.most_ctas = 1 + static_cast<int>(number) * 3 % 11;
    run.with_samples = false;
    const ScatterResult alone = run_scatter<TypeParam>(conv, run);
    EXPECT_LT(error_of(alone.weight, conv.grad_weight()), kTolerance<TypeParam>)
        << "sizes " << number;
    run.most_ctas = 3;
    run.with_weight = false;
    run.with_samples = true;
    const ScatterResult others = run_scatter<TypeParam>(conv, run);
    EXPECT_LT(error_of(others.input, conv.grad_input()), kTolerance<TypeParam>)
        << "sizes " << number;
    EXPECT_LT(error_of(others.offset, conv.grad_offset()), kTolerance<TypeParam>)
        << "sizes " << number;
  }
}

TYPED_TEST(Scatter, WeightGradientOfNoNumber) {
  Convolution conv(Sizes{1, 24, 9, 9, 64, 3, 3, 1, 4}, kBits<TypeParam>, 2.f, 1);
  conv.image[1000] = std::numeric_limits<float>::infinity();
  conv.grad[1000] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_LT(error_of(run_scatter<TypeParam>(conv).weight, conv.grad_weight()),
            kTolerance<TypeParam>);
}

// As with dot products of each corner: no NaN of an infinity less itself.
TYPED_TEST(Scatter, AnInfinitePixel) {
  Convolution conv(Sizes{1, 16, 9, 16, 8, 3, 3, 1, 2}, kBits<TypeParam>, 1.f, 1);
  conv.image[1000] = std::numeric_limits<float>::infinity();
  const ScatterResult result = run_scatter<TypeParam>(conv);
  const auto expect = [](const std::vector<float>& got, const std::vector<double>& wanted) {
    EXPECT_LT(error_of(got, wanted), kTolerance<TypeParam>);
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(std::isnan(got[i]), std::isnan(wanted[i])) << i;
    }
  };
  expect(result.offset, conv.grad_offset());
  expect(result.mask, conv.grad_mask());
}

// What is not finite reaches the pixels that its samples touch, and no other.
TYPED_TEST(Scatter, WhatIsNotFiniteStaysWhereItIs) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int what : {0, 1}) {
    Convolution conv({1, 20, 9, 9, 5, 3, 3, 1, 2}, kBits<TypeParam>, 0.f, 1);  // whole pixels
    const Convolution sound = conv;
    const dcn::ConvShape& shape = conv.shape;
    const int p = 4, q = 5;
    if (what == 0) {
      conv.grad[static_cast<size_t>((p * shape.Q + q) * shape.K)] = kInfinity;
    } else {
      for (int map = 0; map < shape.D * shape.taps(); ++map) {
        conv.mask[static_cast<size_t>((map * shape.P + p) * shape.Q + q)] = kInfinity;
      }
    }
    const ScatterResult result = run_scatter<TypeParam>(conv),
                        before = run_scatter<TypeParam>(sound);
    for (int i = 0; i < static_cast<int>(result.input.size()); ++i) {
      const int y = i / shape.C / shape.W, x = i / shape.C % shape.W;
      const bool touched = std::abs(y - p) <= 1 && std::abs(x - q) <= 1;
      // A mask without bound spreads by weights of 0, too: to the next row and column.
      const bool near = what == 1 && y - p >= -1 && y - p <= 2 && x - q >= -1 && x - q <= 2;
      const float value = result.input[static_cast<size_t>(i)];
      if (touched) {
        EXPECT_FALSE(std::isfinite(value)) << y << ", " << x;
      } else if (!near) {
        EXPECT_NEAR(value, before.input[static_cast<size_t>(i)], 1e-4) << y << ", " << x;
      }
    }
  }
}

}  // namespace
}  // namespace emulation
