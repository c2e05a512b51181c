// One sample of the image at a real-valued position: the only interpolation of the project.
//
// The four corners around (y, x), in the order used everywhere:
//
//   corner 0 = (y0, x0)      corner 1 = (y0, x0 + 1)
//   corner 2 = (y0 + 1, x0)  corner 3 = (y0 + 1, x0 + 1)
//
// A sample is inside iff -1 < y < H and -1 < x < W. The test is in the positive form, so that NaN
// fails it. A corner outside the image has its bit in `corners` clear: it contributes nothing and
// must not be read. A sample that is not inside has no corner at all. `fill` is the value to which
// the corners' contributions are added: 0, or NaN when a coordinate is NaN, so that a broken offset
// shows in the output instead of being repaired in silence.
#pragma once

#include <cmath>
#include <limits>

#include "shape.h"

namespace dcn {

template <typename Coord>
struct Sample {
  int32_t y0, x0;    // top-left corner; -1 is possible: corners 0 and 1 (or 0 and 2) are outside
  Coord ly, lx;      // fractions in [0, 1); NaN when a coordinate is NaN
  uint32_t corners;  // bit k is set when corner k lies inside the image
  Coord fill;        // 0 or NaN

  // Distance in pixels from corner 0 to corner k in a row-major image.
  DCN_HOST_DEVICE static int32_t corner_step(int k, int32_t W) { return (k >> 1) * W + (k & 1); }

  DCN_HOST_DEVICE bool has(int k) const { return (corners >> k) & 1u; }

  // Interpolation weight of corner k.
  DCN_HOST_DEVICE Coord weight(int k) const {
    return (k & 2 ? ly : Coord(1) - ly) * (k & 1 ? lx : Coord(1) - lx);
  }

  // What a modulated sample is worth before its corners are added: nothing, unless it has none.
  // Then mask * 0 or mask * NaN.
  DCN_HOST_DEVICE Coord modulated_fill(Coord mask) const {
    return corners ? Coord(0) : fill * mask;
  }

  // The value, and its derivatives by y and x, from four corner values; those of absent corners
  // must be passed as 0. The same formulas turn the four dot products <gradient, corner> into the
  // gradients of mask, y and x.
  DCN_HOST_DEVICE Coord interpolate(Coord v0, Coord v1, Coord v2, Coord v3) const {
    return fill + (weight(0) * v0 + weight(1) * v1) + (weight(2) * v2 + weight(3) * v3);
  }
  DCN_HOST_DEVICE Coord d_dy(Coord v0, Coord v1, Coord v2, Coord v3) const {
    return fill + (Coord(1) - lx) * (v2 - v0) + lx * (v3 - v1);
  }
  DCN_HOST_DEVICE Coord d_dx(Coord v0, Coord v1, Coord v2, Coord v3) const {
    return fill + (Coord(1) - ly) * (v1 - v0) + ly * (v3 - v2);
  }
};

template <typename Coord>
DCN_HOST_DEVICE Sample<Coord> make_sample(Coord y, Coord x, int32_t H, int32_t W) {
  Sample<Coord> sample{0, 0, Coord(0), Coord(0), 0u, Coord(0)};
  const bool inside = y > Coord(-1) && y < Coord(H) && x > Coord(-1) && x < Coord(W);
  if (!inside) {
    // y != y is the one test for NaN that needs no header on the device. The fractions carry it
    // into every weight as well.
    if (y != y) sample.fill = y;
    if (x != x) sample.fill = x;
    sample.ly = sample.lx = sample.fill;
    return sample;
  }
#if defined(__CUDA_ARCH__)
  const Coord top = ::floor(y), left = ::floor(x);
#else
  const Coord top = std::floor(y), left = std::floor(x);
#endif
  sample.y0 = static_cast<int32_t>(top);
  sample.x0 = static_cast<int32_t>(left);
  sample.ly = y - top;
  sample.lx = x - left;
  const bool has_top = sample.y0 >= 0, has_bottom = sample.y0 < H - 1;
  const bool has_left = sample.x0 >= 0, has_right = sample.x0 < W - 1;
  sample.corners = (has_top && has_left ? 1u : 0u) | (has_top && has_right ? 2u : 0u) |
                   (has_bottom && has_left ? 4u : 0u) | (has_bottom && has_right ? 8u : 0u);
  return sample;
}

// A sample that reads four corners always, without a test: for kernels whose loads must not branch.
// None of them is a pixel that the sample does not touch: a corner outside the image is replaced by
// its neighbour inside, and the two share its weight in halves. (A weight of 0 on some other pixel
// would turn an Inf there into NaN.) A sample outside as a whole has weights of 0 or NaN on a pixel
// that is not its own; where it is 0, its value is to be cleared (`outside`).
struct PairedSample {
  int32_t y0, x0;              // of corner 0, inside the image
  bool two_rows, two_columns;  // otherwise corners 2 and 3 (1 and 3) are corners 0 and 1 (0 and 2)
  float weight[4];             // times the mask
  bool outside;                // worth 0, whatever is read
};

// The corner before a coordinate, and the fraction of the way from there: the sum with 1.5 * 2^23,
// rounded down, holds the floor in its last bits, up to 2^22. Anything else has a corner beyond.
struct Floored {
  int32_t corner;
  float fraction;
};
DCN_HOST_DEVICE Floored floored(float at) {
#if defined(__CUDA_ARCH__)
  constexpr float kFloor = 12582912.f;
  constexpr int32_t kFloorBits = 0x4B400000;
  const float sum = __fadd_rd(at, kFloor);
  return {__float_as_int(sum) - kFloorBits, at - (sum - kFloor)};
#else
  constexpr float kMost = 4194304.f;
  const float floor = std::floor(at);
  const bool held = floor >= -kMost && floor < kMost;
  return {held ? static_cast<int32_t>(floor) : static_cast<int32_t>(kMost), at - floor};
#endif
}

DCN_HOST_DEVICE PairedSample make_paired_sample(float y, float x, float mask, int32_t H,
                                                int32_t W) {
  PairedSample result;
  const bool inside = y > -1.f && y < H && x > -1.f && x < W;
  const bool defined = y == y && x == x;
#if defined(__CUDA_ARCH__)
  // Outside: 0 * mask, or NaN for a coordinate that is; on the first pixel.
  const float fill = defined ? 0.f : __int_as_float(0x7fffffff);
#else
  const float fill = defined ? 0.f : std::numeric_limits<float>::quiet_NaN();
#endif
  const float m = inside ? mask : mask * fill;
  result.outside = !inside && m == 0.f;
  const Floored row = floored(inside ? y : 0.f), column = floored(inside ? x : 0.f);
  const int32_t y0 = row.corner, x0 = column.corner;
  const float ly = row.fraction, lx = column.fraction;
  // Both rows (columns) of corners inside, or one of them twice.
  result.two_rows = static_cast<uint32_t>(y0) < static_cast<uint32_t>(H - 1);
  result.two_columns = static_cast<uint32_t>(x0) < static_cast<uint32_t>(W - 1);
  const float half_y = 0.5f * (y0 < 0 ? ly : 1.f - ly), half_x = 0.5f * (x0 < 0 ? lx : 1.f - lx);
  const float top = m * (result.two_rows ? 1.f - ly : half_y);
  const float bottom = m * (result.two_rows ? ly : half_y);
  const float left = result.two_columns ? 1.f - lx : half_x;
  const float right = result.two_columns ? lx : half_x;
  result.weight[0] = top * left;
  result.weight[1] = top * right;
  result.weight[2] = bottom * left;
  result.weight[3] = bottom * right;
  result.y0 = y0 > 0 ? y0 : 0;
  result.x0 = x0 > 0 ? x0 : 0;
  return result;
}

// A sample of a window: a copy of a rectangle of the image, from pixel (y, x) on, with zeros where
// it reaches beyond the image. There, corners are read without a look at the image's border.
struct WindowSample {
  uint32_t row, column;  // of corner 0 in the window; beyond it where the sample is not there
  float ly, lx;
};
DCN_HOST_DEVICE WindowSample window_sample(float y, float x, int32_t window_y, int32_t window_x) {
  const Floored row = floored(y), column = floored(x);
  return {static_cast<uint32_t>(row.corner) - static_cast<uint32_t>(window_y),
          static_cast<uint32_t>(column.corner) - static_cast<uint32_t>(window_x), row.fraction,
          column.fraction};
}

// A sample on the line before the first row or column of pixels is outside, but has a corner among
// them. A line further outside it is worth 0 as well, and has none.
DCN_HOST_DEVICE void move_off_border(float& at) {
  if (at == -1.f) at = -2.f;
}

// Whether a sample off that line is one, for a window with corners 0 in so many rows and columns. A
// mask that is not finite, in f16 either, would make NaN of zero: it is left to make_paired_sample.
constexpr float kMostWindowMask = 65504.f;
DCN_HOST_DEVICE bool in_window(float mask, const WindowSample& sample, uint32_t rows,
                               uint32_t columns) {
  // No && and no branch: nearly always all of it holds.
  const bool finite = std::fabs(mask) <= kMostWindowMask;
  return (sample.row < rows) & (sample.column < columns) & finite;
}

// Times the mask. Weights of two rows (columns) that are 0 and 1 are exact.
struct WindowWeights {
  float weight[4];
};
DCN_HOST_DEVICE WindowWeights window_weights(const WindowSample& sample, float mask) {
  const float bottom = mask * sample.ly, top = mask - bottom;
  const float right = top * sample.lx, bottom_right = bottom * sample.lx;
  return {{top - right, right, bottom - bottom_right, bottom_right}};
}

}  // namespace dcn
