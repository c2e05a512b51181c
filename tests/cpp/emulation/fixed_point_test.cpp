// The kernels of the input gradient in fixed point: values against the plain convolution's, and the
// same bits in any order of chunks, CTAs and warps.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fixed_point_run.h"

namespace emulation {
namespace {

template <typename Element>
struct FixedPoint : testing::Test {
  static constexpr int kBits =
      sizeof(Element) == 2 ? (std::is_same_v<Element, __half> ? 11 : 8) : 24;
  // Half an ulp of the column's gradient and of the result, and of the f32 products between.
  static constexpr double kTolerance = sizeof(Element) == 8 ? 1e-15 : 2 * std::exp2(1 - kBits);
};
using Elements = testing::Types<double, float, __half, __nv_bfloat16>;
TYPED_TEST_SUITE(FixedPoint, Elements);

// Of what is finite.
double largest_error(const std::vector<double>& got, const std::vector<double>& wanted) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!std::isfinite(wanted[i])) continue;
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    error = std::max(error, std::fabs(got[i] - wanted[i]));
    largest = std::max(largest, std::fabs(wanted[i]));
  }
  return error / largest;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

constexpr Sizes kNarrow{2, 24, 5, 7, 10, 3, 3, 1, 6};
constexpr Sizes kSizes[] = {
    {},
    kNarrow,
    {2, 12, 6, 5, 6, 3, 3, 2, 3},
    {1, 6, 6, 6, 6, 2, 3, 6, 1, 1, 1, 1, /*mask=*/false},
    {3, 70, 9, 8, 5, 3, 3, 1, 1, /*stride=*/2, /*pad=*/2, /*dil=*/2},
};

// Positions are the same in f32 and f64.
Convolution drawn(const Sizes& sizes, int bits, float spread, uint32_t seed) {
  Convolution conv(sizes, bits, spread, seed);
  for (float& value : conv.offset) value = std::nearbyint(value * 1024.f) / 1024.f;
  return conv;
}

TYPED_TEST(FixedPoint, TheLargestIsFoundWhereverItIs) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const size_t place : {0, 255, 2047, 2048, 4998}) {
    std::vector<float> values(5000, -1.f);
    values[place] = -3.f;
    values[place + 1] = 0.f;
    values[(place + 77) % 5000] = -kInfinity;
    values[(place + 78) % 5000] = std::nanf("");
    auto largest = DeviceArray<unsigned long long>::zeros(1);
    raise_largest<TypeParam>(values, largest.data());
    double found = 0;
    std::memcpy(&found, largest.data(), sizeof found);
    EXPECT_EQ(found, 3) << place;
    allow_nothing();
  }
}

TYPED_TEST(FixedPoint, EveryKindOfShape) {
  for (const Sizes& sizes : kSizes) {
    const Convolution conv = drawn(sizes, this->kBits, /*spread=*/2.f, /*seed=*/3);
    const auto gradient = run_fixed_point<TypeParam>(conv, 1 << 20);
    EXPECT_LE(largest_error(gradient, conv.grad_input()), this->kTolerance)
        << sizes.C << ' ' << sizes.G << ' ' << sizes.D;
  }
}

TYPED_TEST(FixedPoint, NoOrderShows) {
  for (const float spread : {0.f, 2.f}) {
    Convolution conv = drawn(kNarrow, this->kBits, spread, 4);
    if (spread == 0.f) {  // all near one pixel
      for (size_t i = 0; i < conv.offset.size(); ++i) {
        conv.offset[i] = 2.3f - static_cast<float>(i / 7 % 5 + i % 7) * 0.5f;
      }
    }
    seed(1);
    const auto first = run_fixed_point<TypeParam>(conv, 70);
    for (const int chunk_pixels : {7, 33, 70}) {
      seed(static_cast<uint32_t>(chunk_pixels));
      EXPECT_TRUE(same_bits(first, run_fixed_point<TypeParam>(conv, chunk_pixels)));
      EXPECT_TRUE(same_bits(first, run_fixed_point<TypeParam>(conv, chunk_pixels, true)));
    }
  }
}

// Where a plain sum is not finite, so is this one; elsewhere nothing of it shows.
TYPED_TEST(FixedPoint, WhatIsNotFiniteStaysWhereItBelongs) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Convolution plain = drawn({2, 8, 6, 6, 4, 3, 3, 1, 2}, this->kBits, 1.f, 5);
  for (const float value : {kInfinity, -kInfinity, std::nanf("")}) {
    Convolution conv = plain;
    conv.grad[4 * 20] = value;    // of all channels of the samples of a pixel
    conv.mask[36 * 3] = value;    // of a sample
    conv.offset[36 * 5] = value;  // adds nothing
    const auto gradient = run_fixed_point<TypeParam>(conv, 1 << 20);
    const auto wanted = conv.grad_input();
    EXPECT_LE(largest_error(gradient, wanted), this->kTolerance);
    int broken = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (std::isfinite(wanted[i])) continue;
      if (std::isinf(wanted[i])) {
        EXPECT_EQ(gradient[i], wanted[i]) << i;
      } else {
        EXPECT_TRUE(std::isnan(gradient[i])) << i;
      }
      ++broken;
    }
    EXPECT_GT(broken, 8);
    EXPECT_LT(broken, static_cast<int>(wanted.size()) / 2);
  }
}

// Gradients of any size keep their digits, and none at all give zeros.
TYPED_TEST(FixedPoint, TinyAndLargeGradients) {
  const Convolution plain = drawn({1, 8, 6, 6, 8, 3, 3, 1, 2}, this->kBits, 1.f, 6);
  const auto expected = run_fixed_point<TypeParam>(plain, 1 << 20);
  constexpr bool kSmallRange = std::is_same_v<TypeParam, __half>;
  const int least = kSmallRange ? -3 : -90, most = kSmallRange ? 8 : 100;
  for (const int exponent : {least, most}) {
    Convolution conv = plain;
    for (float& value : conv.grad) value = std::ldexp(value, exponent);
    auto gradient = run_fixed_point<TypeParam>(conv, 1 << 20);
    for (double& value : gradient) value = std::ldexp(value, -exponent);
    EXPECT_TRUE(same_bits(gradient, expected)) << exponent;
  }
  Convolution zero = plain;
  std::fill(zero.grad.begin(), zero.grad.end(), 0.f);
  for (const double value : run_fixed_point<TypeParam>(zero, 1 << 20)) EXPECT_EQ(value, 0);
}

}  // namespace
}  // namespace emulation
