// Sums in fixed point: the same bits in whatever order their terms are added.
//
// A term is rounded to a whole number of units, the unit a power of two, and added to a word of 64
// bits. Integer addition is associative, which that of floating point is not. The unit follows from
// a bound of the terms and of their count, so that no sum leaves its word:
//
//   bit 63       a term was -infinity   } both: NaN
//   bit 62       a term was +infinity   }
//   bits 0..61   the sum of the finite terms, plus 2^61
//
// f64 takes a second word, of what the first one's rounding leaves, in units that are finer by as
// many bits as a term has; its two upper bits stay clear.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "shape.h"

namespace dcn {

constexpr uint64_t kEmptySum = uint64_t{1} << 61;
constexpr uint64_t kPositiveInfinity = uint64_t{1} << 62;
constexpr uint64_t kNegativeInfinity = uint64_t{1} << 63;

// Rounded up; of 1 and more.
DCN_HOST_DEVICE int32_t log2_above(int64_t value) {
  int32_t log2 = 0;
  while ((int64_t{1} << log2) < value) ++log2;
  return log2;
}

// What the contributions to an input gradient are bounded by: products of a grad_out, a weight and
// a mask, summed over the output channels of a group, times an interpolation weight.
constexpr int32_t kContributionFactors = 3;
struct ContributionBound {
  const unsigned long long* largest;  // bits of the largest finite |grad_out|, |weight|, |mask|
  int32_t factors;                    // without mask one fewer
  int32_t log2_terms;                 // of K/G, rounded up
  int32_t log2_count;  // of the samples of an image: each adds to a pixel at most once
};
inline ContributionBound contribution_bound(const ConvShape& shape, bool has_mask,
                                            const unsigned long long* largest) {
  return {largest, kContributionFactors - (has_mask ? 0 : 1), log2_above(shape.gemm_n()),
          log2_above(int64_t{shape.taps()} * shape.output_pixels_per_image())};
}

// A term has at most `bits` bits, and counts units of 2^-exponent.
struct FixedPointUnit {
  int32_t bits, exponent;
};

// Coord: f32 or f64, in which the terms are.
template <typename Coord>
DCN_HOST_DEVICE FixedPointUnit fixed_point_unit(const ContributionBound& bound) {
  // Every finite term is below 2^limit, whatever was seen. Nothing needs a finer unit than the
  // smallest number of f32; f64's must have an inverse.
  constexpr int32_t kLimit = sizeof(Coord) == 4 ? 128 : 1024;
  constexpr int32_t kFinest = sizeof(Coord) == 4 ? 149 : 1022;
  // Products, sums and 16-bit columns are rounded, of 10 bits up to twice: less than doubled.
  int32_t log2_bound = 1 + bound.log2_terms;
  for (int32_t i = 0; i < kContributionFactors; ++i) {
    if (i == bound.factors) break;
    const auto f64_exponent = static_cast<int32_t>(bound.largest[i] >> 52);
    log2_bound += f64_exponent - 1022;  // of a number above the largest
  }
  const int32_t limit = log2_bound < kLimit ? log2_bound : kLimit;
  // `count` terms, and half a unit each for their rounding, stay below 2^61.
  const int32_t bits = 60 - bound.log2_count;
  const int32_t exponent = bits - limit;
  return {bits, exponent < kFinest ? exponent : kFinest};
}

// The part of a word that is a sum.
DCN_HOST_DEVICE int64_t sum_of(uint64_t word) {
  return static_cast<int64_t>(word & (kPositiveInfinity - 1)) - static_cast<int64_t>(kEmptySum);
}

template <typename Coord>
DCN_HOST_DEVICE bool is_finite(Coord value) {
  return value <= std::numeric_limits<Coord>::max() &&
         value >= std::numeric_limits<Coord>::lowest();
}
template <typename Coord>
DCN_HOST_DEVICE uint64_t infinities_of(Coord value) {
  return (value > Coord(0) ? 0 : kNegativeInfinity) | (value < Coord(0) ? 0 : kPositiveInfinity);
}
// The sum, or what the flags of its word say it is.
template <typename Coord>
DCN_HOST_DEVICE Coord unless_infinite(uint64_t word, Coord sum) {
  constexpr Coord kInfinity = std::numeric_limits<Coord>::infinity();
  const bool positive = (word & kPositiveInfinity) != 0, negative = (word & kNegativeInfinity) != 0;
  if (positive && negative) return std::numeric_limits<Coord>::quiet_NaN();
  return positive ? kInfinity : negative ? -kInfinity : sum;
}

// Of normal numbers. By their bits: the functions of the device know denormal ones, at a price.
DCN_HOST_DEVICE float f32_power_of_two(int32_t exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
DCN_HOST_DEVICE double f64_power_of_two(int32_t exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Terms to words and words to sums.
template <typename Coord>
class FixedPoint;

template <>
class FixedPoint<float> {
 public:
  static constexpr int kWords = 1;

  DCN_HOST_DEVICE explicit FixedPoint(FixedPointUnit unit) {
    // In two factors, each within f32 with its inverse.
    const int32_t half = unit.exponent / 2;
    scale_[0] = f32_power_of_two(half);
    scale_[1] = f32_power_of_two(unit.exponent - half);
    unit_[0] = f32_power_of_two(-half);
    unit_[1] = f32_power_of_two(half - unit.exponent);
  }
  DCN_HOST_DEVICE void to_words(float term, int64_t (&words)[kWords]) const {
    words[0] = ::llrintf(term * scale_[0] * scale_[1]);
  }
  DCN_HOST_DEVICE float from_words(const uint64_t (&words)[kWords]) const {
    return unless_infinite(words[0], static_cast<float>(sum_of(words[0])) * unit_[0] * unit_[1]);
  }

 private:
  float scale_[2], unit_[2];
};

template <>
class FixedPoint<double> {
 public:
  static constexpr int kWords = 2;

  DCN_HOST_DEVICE explicit FixedPoint(FixedPointUnit unit)
      : scale_(f64_power_of_two(unit.exponent)),
        unit_(f64_power_of_two(-unit.exponent)),
        fine_scale_(f64_power_of_two(unit.bits + 1)),
        fine_unit_(f64_power_of_two(-unit.bits - 1)) {}
  DCN_HOST_DEVICE void to_words(double term, int64_t (&words)[kWords]) const {
    const double units = term * scale_;
    words[0] = ::llrint(units);
    // Exact: both are whole numbers from 2^53 on, below that the rest has fewer bits than `units`.
    const double rest = units - static_cast<double>(words[0]);
    words[1] = ::llrint(rest * fine_scale_);
  }
  DCN_HOST_DEVICE double from_words(const uint64_t (&words)[kWords]) const {
    const int64_t units = sum_of(words[0]);
    const auto leading = static_cast<double>(units);
    const auto trailing = static_cast<double>(units - static_cast<int64_t>(leading));
    const double fine = static_cast<double>(sum_of(words[1])) * fine_unit_;
    return unless_infinite(words[0], (leading + (trailing + fine)) * unit_);
  }

 private:
  double scale_, unit_, fine_scale_, fine_unit_;
};

}  // namespace dcn
