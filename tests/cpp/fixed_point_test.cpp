// Sums in fixed point: their bits do not depend on the order of their terms, and their values are
// those of the terms.
#include "fixed_point.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace dcn {
namespace {

template <typename T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// A bound with these largest factors; `count` terms at most.
struct Bound {
  Bound(std::vector<double> factors, int64_t products, int64_t count) {
    for (size_t i = 0; i < factors.size(); ++i) largest[i] = bits_of(factors[i]);
    bound = {largest, static_cast<int32_t>(factors.size()), log2_above(products),
             log2_above(count)};
  }
  Bound(const Bound&) = delete;
  unsigned long long largest[3] = {};
  ContributionBound bound;
};

template <typename Coord>
Coord sum_in_fixed_point(const ContributionBound& bound, const std::vector<Coord>& terms) {
  constexpr int kWords = FixedPoint<Coord>::kWords;
  const FixedPoint<Coord> fixed(fixed_point_unit<Coord>(bound));
  uint64_t words[kWords];
  std::fill_n(words, kWords, kEmptySum);
  for (const Coord term : terms) {
    if (!is_finite(term)) {
      words[0] |= infinities_of(term);
      continue;
    }
    int64_t added[kWords];
    fixed.to_words(term, added);
    for (int i = 0; i < kWords; ++i) words[i] += static_cast<uint64_t>(added[i]);
  }
  return fixed.from_words(words);
}

template <typename Coord>
struct FixedPointOf : testing::Test {};
using Coords = testing::Types<float, double>;
TYPED_TEST_SUITE(FixedPointOf, Coords);

TYPED_TEST(FixedPointOf, OrderDoesNotMatter) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::vector<TypeParam> terms(1000);
  for (TypeParam& term : terms) {
    term = static_cast<TypeParam>(normal(random) * std::pow(10., normal(random) * 3));
  }
  double largest = 0;
  for (const TypeParam term : terms) largest = std::max<double>(largest, std::fabs(term));
  const Bound bound({largest, 1.}, 1, 1 << 19);
  const TypeParam sum = sum_in_fixed_point(bound.bound, terms);
  int others = 0;
  const TypeParam plain = std::accumulate(terms.begin(), terms.end(), TypeParam(0));
  for (int i = 0; i < 50; ++i) {
    std::shuffle(terms.begin(), terms.end(), random);
    ASSERT_EQ(bits_of(sum_in_fixed_point(bound.bound, terms)), bits_of(sum));
    others += std::accumulate(terms.begin(), terms.end(), TypeParam(0)) != plain;
  }
  EXPECT_GT(others, 0) << "sums of these terms do not show their order";
}

// The error is half a unit a term, and that of the result's own type: f32 with the fewest bits,
// f64 with twice as many as f32 has.
TYPED_TEST(FixedPointOf, ValuesAreThoseOfTheTerms) {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  for (const int log2_count : {0, 6, 19, 30}) {
    for (const int scale : {-300, -126, -60, 0, 60, 120, 900}) {
      if (sizeof(TypeParam) == 4 && (scale < -126 || scale > 120)) continue;
      std::vector<TypeParam> terms(std::min(1 << log2_count, 200));
      double largest = 0, magnitude = 0;
      for (TypeParam& term : terms) {
        term = static_cast<TypeParam>(std::ldexp(normal(random), scale));
        largest = std::max<double>(largest, std::fabs(term));
        magnitude += std::fabs(term);
      }
      const Bound bound({largest, 1., 1.}, 1, int64_t{1} << log2_count);
      long double exact = 0;
      for (const TypeParam term : terms) exact += term;
      const double sum = sum_in_fixed_point(bound.bound, terms);
      // Each of the three factors may count for twice its value, and their product for twice that.
      const double bits = (60 - log2_count) * FixedPoint<TypeParam>::kWords;
      const double unit = largest * std::exp2(4 - bits);
      const double rounding = std::numeric_limits<TypeParam>::epsilon() * magnitude;
      EXPECT_LE(std::fabs(static_cast<double>(sum - exact)),
                static_cast<double>(terms.size()) * unit + rounding)
          << log2_count << ' ' << scale;
    }
  }
}

TYPED_TEST(FixedPointOf, TheLargestTermsOfTheLargestCountFit) {
  constexpr TypeParam kMost = std::numeric_limits<TypeParam>::max();
  for (const TypeParam largest : {kMost, TypeParam(1), TypeParam(1.999), TypeParam(1e-30)}) {
    for (const TypeParam sign : {TypeParam(1), TypeParam(-1)}) {
      const Bound bound({double{largest}, 1., 1.}, 1, int64_t{1} << 30);
      const FixedPoint<TypeParam> fixed(fixed_point_unit<TypeParam>(bound.bound));
      int64_t words[FixedPoint<TypeParam>::kWords];
      fixed.to_words(sign * largest, words);
      for (const int64_t word : words) {
        const uint64_t sum = kEmptySum + static_cast<uint64_t>(word) * (uint64_t{1} << 30);
        EXPECT_LT(sum, kPositiveInfinity) << largest;
        EXPECT_GT(sum, 0u);
      }
    }
  }
}

TYPED_TEST(FixedPointOf, NumbersBeyondTheirTypeDoNotBreakTheUnit) {
  const double most = std::numeric_limits<double>::max();
  // A bound that overflows, of terms that do not; one that underflows; none at all.
  const Bound huge({most, most, most}, 1 << 20, 1 << 20);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(huge.bound, {TypeParam(0)}), 0);
  const TypeParam large = std::ldexp(TypeParam(1.5), sizeof(TypeParam) == 4 ? 126 : 1022);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(huge.bound, {large, -large, large / 2}), large / 2);
  const Bound tiny({std::numeric_limits<double>::denorm_min(), 1e-300, 1e-300}, 9, 1 << 20);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(tiny.bound, {TypeParam(0), TypeParam(-0.)}), 0);
  EXPECT_FALSE(std::signbit(sum_in_fixed_point<TypeParam>(tiny.bound, {TypeParam(-0.)})));
  const Bound zero({0., 1., 1.}, 9, 1 << 20);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(zero.bound, {TypeParam(0), TypeParam(0)}), 0);
}

TEST(FixedPoint, SmallestNumbersOfF32AreExact) {
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  const Bound bound({1e-38, 1.}, 1, 1 << 20);
  EXPECT_EQ(sum_in_fixed_point<float>(bound.bound, {kSmallest, 5 * kSmallest, -2 * kSmallest}),
            4 * kSmallest);
}

TYPED_TEST(FixedPointOf, SumsBeyondTheirTypeAreInfinite) {
  constexpr TypeParam kMost = std::numeric_limits<TypeParam>::max();
  constexpr TypeParam kInfinity = std::numeric_limits<TypeParam>::infinity();
  const Bound bound({double{kMost}, 1.}, 1, 16);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(bound.bound, {kMost, kMost}), kInfinity);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(bound.bound, {-kMost, -kMost}), -kInfinity);
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(bound.bound, {kMost, kMost, -kMost}), kMost);
  // An infinite term outweighs a finite sum that left the type's range.
  EXPECT_EQ(sum_in_fixed_point<TypeParam>(bound.bound, {kMost, kMost, -kInfinity}), -kInfinity);
}

TYPED_TEST(FixedPointOf, WhatIsNotFiniteKeepsItsClass) {
  constexpr TypeParam kInfinity = std::numeric_limits<TypeParam>::infinity();
  constexpr TypeParam kNaN = std::numeric_limits<TypeParam>::quiet_NaN();
  const Bound bound({1., 1., 1.}, 1, 1000);
  std::vector<TypeParam> values{TypeParam(0.5), TypeParam(-1), kInfinity, -kInfinity, kNaN, -kNaN};
  for (size_t chosen = 0; chosen < (1u << values.size()); ++chosen) {
    std::vector<TypeParam> terms;
    for (size_t i = 0; i < values.size(); ++i) {
      if (chosen >> i & 1) terms.push_back(values[i]);
    }
    const TypeParam plain = std::accumulate(terms.begin(), terms.end(), TypeParam(0));
    const TypeParam sum = sum_in_fixed_point(bound.bound, terms);
    if (plain == plain) {
      EXPECT_EQ(sum, plain) << chosen;
    } else {
      EXPECT_EQ(bits_of(sum), bits_of(kNaN)) << chosen;
    }
  }
}

}  // namespace
}  // namespace dcn
