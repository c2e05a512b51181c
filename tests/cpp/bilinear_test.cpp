#include "bilinear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace dcn {
namespace {

template <typename Coord>
class Bilinear : public ::testing::Test {
 protected:
  static constexpr Coord kNan = std::numeric_limits<Coord>::quiet_NaN();
  static constexpr Coord kInf = std::numeric_limits<Coord>::infinity();

  // An image without symmetries; `infinite` pixels show whether they were read.
  static std::vector<Coord> image(int H, int W) {
    std::vector<Coord> pixels(H * W);
    for (int i = 0; i < H * W; ++i) pixels[i] = std::sin(Coord(1 + i * i));
    return pixels;
  }

  // The four values that a kernel passes: 0 for the absent corners, which it must not read.
  static std::array<Coord, 4> corners(const Sample<Coord>& sample, const std::vector<Coord>& pixels,
                                      int W) {
    std::array<Coord, 4> values{};
    const int first = sample.y0 * W + sample.x0;
    for (int k = 0; k < 4; ++k) {
      if (sample.has(k)) values[k] = pixels.at(first + Sample<Coord>::corner_step(k, W));
    }
    return values;
  }

  static Coord value(Coord y, Coord x, const std::vector<Coord>& pixels, int H, int W) {
    const auto sample = make_sample(y, x, H, W);
    const auto v = corners(sample, pixels, W);
    return sample.interpolate(v[0], v[1], v[2], v[3]);
  }

  // The definition: each pixel weighs max(0, 1 - |dy|) * max(0, 1 - |dx|).
  static double expected(double y, double x, const std::vector<Coord>& pixels, int H, int W) {
    double sum = 0;
    for (int i = 0; i < H; ++i) {
      for (int j = 0; j < W; ++j) {
        const double near_y = std::max(0.0, 1 - std::abs(y - i));
        const double near_x = std::max(0.0, 1 - std::abs(x - j));
        sum += near_y * near_x * double(pixels[i * W + j]);
      }
    }
    return sum;
  }
};

using Coords = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Bilinear, Coords);

TYPED_TEST(Bilinear, IsTheDefinitionEverywhere) {
  const double tolerance = 8 * std::numeric_limits<TypeParam>::epsilon();
  for (const auto& [H, W] : {std::pair{4, 5}, {1, 1}, {1, 6}, {3, 1}}) {
    const auto pixels = this->image(H, W);
    for (double y = -2; y <= H + 1; y += 0.125) {
      for (double x = -2; x <= W + 1; x += 0.125) {
        EXPECT_NEAR(this->value(y, x, pixels, H, W), this->expected(y, x, pixels, H, W), tolerance)
            << "at " << y << ", " << x << " of " << H << " x " << W;
      }
    }
  }
}

TYPED_TEST(Bilinear, CornersStayInsideTheImage) {
  const int H = 3, W = 4;
  for (double y = -1.5; y <= H + 0.5; y += 0.25) {
    for (double x = -1.5; x <= W + 0.5; x += 0.25) {
      const auto sample = make_sample(TypeParam(y), TypeParam(x), H, W);
      for (int k = 0; k < 4; ++k) {
        const int row = sample.y0 + (k >> 1), col = sample.x0 + (k & 1);
        const bool inside = y > -1 && y < H && x > -1 && x < W;
        const bool there = inside && row >= 0 && row < H && col >= 0 && col < W;
        EXPECT_EQ(sample.has(k), there) << "corner " << k << " at " << y << ", " << x;
      }
    }
  }
}

TYPED_TEST(Bilinear, TheBorderIsExclusive) {
  const int H = 5, W = 7;
  const TypeParam before = std::nextafter(TypeParam(-1), TypeParam(0));
  EXPECT_EQ(make_sample(TypeParam(-1), TypeParam(2), H, W).corners, 0u);
  EXPECT_EQ(make_sample(TypeParam(2), TypeParam(-1), H, W).corners, 0u);
  EXPECT_EQ(make_sample(TypeParam(H), TypeParam(2), H, W).corners, 0u);
  EXPECT_EQ(make_sample(TypeParam(2), TypeParam(W), H, W).corners, 0u);
  EXPECT_EQ(make_sample(before, TypeParam(2), H, W).corners, 4u | 8u);
  EXPECT_EQ(make_sample(TypeParam(2), before, H, W).corners, 2u | 8u);
  EXPECT_EQ(make_sample(std::nextafter(TypeParam(H), TypeParam(0)), TypeParam(2), H, W).corners,
            1u | 2u);
  EXPECT_EQ(make_sample(TypeParam(2), std::nextafter(TypeParam(W), TypeParam(0)), H, W).corners,
            1u | 4u);
}

TYPED_TEST(Bilinear, NanFillsAndHasNoCorner) {
  for (const auto& [y, x] : {std::pair{this->kNan, TypeParam(1)},
                             {TypeParam(1), this->kNan},
                             {this->kNan, this->kNan},
                             {this->kInf, this->kNan},
                             {this->kNan, -this->kInf}}) {
    const auto sample = make_sample(y, x, 4, 4);
    EXPECT_EQ(sample.corners, 0u);
    EXPECT_TRUE(std::isnan(sample.interpolate(0, 0, 0, 0)));
    EXPECT_TRUE(std::isnan(sample.d_dy(0, 0, 0, 0)));
    EXPECT_TRUE(std::isnan(sample.d_dx(0, 0, 0, 0)));
  }
}

TYPED_TEST(Bilinear, FarAwayIsZero) {
  const TypeParam largest = std::numeric_limits<TypeParam>::max();
  for (const TypeParam far :
       {this->kInf, TypeParam(1e30), TypeParam(2147483648.0), TypeParam(4294967296.0), largest}) {
    for (const auto& [y, x] : {std::pair{far, TypeParam(1)},
                               {-far, TypeParam(1)},
                               {TypeParam(1), far},
                               {TypeParam(1), -far},
                               {far, -far}}) {
      const auto sample = make_sample(y, x, 4, 4);
      EXPECT_EQ(sample.corners, 0u) << y << ", " << x;
      EXPECT_EQ(sample.interpolate(0, 0, 0, 0), TypeParam(0));
      EXPECT_EQ(sample.d_dy(0, 0, 0, 0), TypeParam(0));
      EXPECT_EQ(sample.d_dx(0, 0, 0, 0), TypeParam(0));
    }
  }
}

TYPED_TEST(Bilinear, DerivativesAreThoseOfTheValue) {
  const int H = 4, W = 5;
  const auto pixels = this->image(H, W);
  // The value is linear in y and in x between integers, so a difference quotient over a long step
  // is exact.
  const TypeParam step = 0.25;
  const double tolerance = 32 * std::numeric_limits<TypeParam>::epsilon();
  for (double y = -0.875; y < H - 0.25; y += 0.5) {
    for (double x = -0.875; x < W - 0.25; x += 0.5) {
      const auto sample = make_sample(TypeParam(y), TypeParam(x), H, W);
      const auto v = this->corners(sample, pixels, W);
      const double here = this->value(y, x, pixels, H, W);
      const double down = this->value(y + step, x, pixels, H, W);
      const double right = this->value(y, x + step, pixels, H, W);
      EXPECT_NEAR(sample.d_dy(v[0], v[1], v[2], v[3]), (down - here) / step, tolerance);
      EXPECT_NEAR(sample.d_dx(v[0], v[1], v[2], v[3]), (right - here) / step, tolerance);
    }
  }
}

TYPED_TEST(Bilinear, FractionsAreExactFarFromTheOrigin) {
  const auto sample = make_sample(TypeParam(4092.75), TypeParam(8190.5), 8192, 8192);
  EXPECT_EQ(sample.y0, 4092);
  EXPECT_EQ(sample.x0, 8190);
  EXPECT_EQ(sample.ly, TypeParam(0.75));
  EXPECT_EQ(sample.lx, TypeParam(0.5));
  EXPECT_EQ(sample.weight(0) + sample.weight(1) + sample.weight(2) + sample.weight(3),
            TypeParam(1));
}

// What a kernel makes of a paired sample, with the rows and columns that it reads.
struct Read {
  float value = 0;
  int rows[2], columns[2];
};
Read read(const PairedSample& sample, const std::vector<float>& pixels, int W) {
  Read result;
  for (int i = 0; i < 2; ++i) {
    result.rows[i] = sample.y0 + (sample.two_rows ? i : 0);
    result.columns[i] = sample.x0 + (sample.two_columns ? i : 0);
  }
  for (int k = 0; k < 4; ++k) {
    result.value += sample.weight[k] * pixels.at(result.rows[k / 2] * W + result.columns[k % 2]);
  }
  return result;
}

TEST(PairedSample, IsTheSampleTimesTheMask) {
  const float mask = 0.75f;
  for (const auto& [H, W] : {std::pair{4, 5}, {1, 1}, {1, 6}, {3, 1}, {2, 2}}) {
    std::vector<float> pixels(H * W);
    for (int i = 0; i < H * W; ++i) pixels[i] = std::sin(float(1 + i * i));
    for (float y = -2; y <= H + 1; y += 0.125f) {
      for (float x = -2; x <= W + 1; x += 0.125f) {
        const PairedSample paired = make_paired_sample(y, x, mask, H, W);
        const Read got = read(paired, pixels, W);
        const Sample<float> sample = make_sample(y, x, H, W);
        float corner[4] = {};
        for (int k = 0; k < 4; ++k) {
          const int first = sample.y0 * W + sample.x0;
          if (sample.has(k)) corner[k] = pixels.at(first + Sample<float>::corner_step(k, W));
        }
        const float value = sample.interpolate(corner[0], corner[1], corner[2], corner[3]);
        EXPECT_NEAR(got.value, mask * value, 4e-7f) << y << ", " << x << " of " << H << " x " << W;
        EXPECT_EQ(paired.outside, sample.corners == 0) << y << ", " << x;
      }
    }
  }
}

// A pixel with a weight, even of 0, may be infinite: it must be one that the sample touches.
TEST(PairedSample, ReadsNoOtherPixel) {
  const int H = 4, W = 5;
  const std::vector<float> pixels(H * W, 1.f);
  for (float y = -0.9375f; y < H; y += 0.0625f) {
    for (float x = -0.9375f; x < W; x += 0.0625f) {
      const Read got = read(make_paired_sample(y, x, 1.f, H, W), pixels, W);
      for (int i = 0; i < 2; ++i) {
        EXPECT_LE(std::abs(got.rows[i] - y), 1.f) << y << ", " << x;
        EXPECT_LE(std::abs(got.columns[i] - x), 1.f) << y << ", " << x;
      }
    }
  }
}

TEST(PairedSample, OutsideIsZeroOrNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const auto& [y, x] : {std::pair{-1.f, 1.f}, {4.f, 1.f}, {1.f, inf}, {-inf, 1.f}}) {
    const PairedSample sample = make_paired_sample(y, x, 0.5f, 4, 4);
    EXPECT_TRUE(sample.outside);
    for (const float weight : sample.weight) EXPECT_EQ(weight, 0.f);
    // 0 times a mask that is no number.
    EXPECT_FALSE(make_paired_sample(y, x, inf, 4, 4).outside);
    EXPECT_TRUE(std::isnan(make_paired_sample(y, x, nan, 4, 4).weight[0]));
  }
  const PairedSample undefined = make_paired_sample(nan, 1.f, 0.5f, 4, 4);
  EXPECT_FALSE(undefined.outside);
  EXPECT_TRUE(std::isnan(undefined.weight[0]));
}

// A window that reaches 3 pixels beyond the image on every side.
TEST(WindowSample, IsThePairedSample) {
  const float mask = 0.75f;
  for (const auto& [H, W] : {std::pair{4, 5}, {1, 1}, {1, 6}}) {
    std::vector<float> pixels(H * W);
    for (int i = 0; i < H * W; ++i) pixels[i] = std::sin(float(1 + i * i));
    const auto in_image = [&](int y, int x) {
      return y >= 0 && y < H && x >= 0 && x < W ? pixels.at(y * W + x) : 0.f;
    };
    for (float y = -3; y < H + 2; y += 0.125f) {
      for (float x = -3; x < W + 2; x += 0.125f) {
        float moved_y = y, moved_x = x;
        move_off_border(moved_y);
        move_off_border(moved_x);
        const WindowSample sample = window_sample(moved_y, moved_x, -3, -3);
        EXPECT_TRUE(in_window(mask, sample, H + 5, W + 5));
        // No corner is a pixel of the image where the sample is outside.
        EXPECT_EQ(sample.row + 1 < 3, y <= -1);
        EXPECT_EQ(sample.column + 1 < 3, x <= -1);
        const WindowWeights weights = window_weights(sample, mask);
        float value = 0;
        for (int k = 0; k < 4; ++k) {
          const int row = static_cast<int>(sample.row) - 3,
                    column = static_cast<int>(sample.column) - 3;
          value += weights.weight[k] * in_image(row + k / 2, column + k % 2);
        }
        const PairedSample paired = make_paired_sample(y, x, mask, H, W);
        const float wanted = paired.outside ? 0.f : read(paired, pixels, W).value;
        EXPECT_NEAR(value, wanted, 4e-7f) << y << ", " << x << " of " << H << " x " << W;
      }
    }
  }
}

TEST(WindowSample, IsWithinItAndFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const auto inside = [](float y, float x, float mask) {
    return in_window(mask, window_sample(y, x, -2, 1), 5, 5);
  };
  EXPECT_TRUE(inside(-2.f, 1.f, 0.f));
  EXPECT_TRUE(inside(2.75f, 5.75f, -3.f));
  EXPECT_FALSE(inside(2.75f, 5.75f, 65536.f));  // no number in f16
  for (const float bad : {1e4f, -1e4f, 1e30f, -1e30f}) {
    EXPECT_FALSE(inside(bad, 2.f, 1.f));
    EXPECT_FALSE(inside(2.f, bad, 1.f));
  }
  for (const float bad : {nan, inf, -inf}) {
    EXPECT_FALSE(inside(bad, 2.f, 1.f));
    EXPECT_FALSE(inside(2.f, bad, 1.f));
    EXPECT_FALSE(inside(2.f, 2.f, bad));
  }
  EXPECT_FALSE(inside(3.f, 2.f, 1.f));
  EXPECT_FALSE(inside(-2.125f, 2.f, 1.f));
  EXPECT_FALSE(inside(2.f, 6.f, 1.f));
  EXPECT_FALSE(inside(2.f, 0.875f, 1.f));
}

}  // namespace
}  // namespace dcn
