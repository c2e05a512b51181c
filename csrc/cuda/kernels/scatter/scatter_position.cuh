// Where samples of the scatter land, and the gradients that follow from their corners.
#pragma once

#include <limits>

#include "../../../bilinear.h"
#include "scatter_shared.cuh"

namespace dcn {

// A sample's top-left corner, which may lie outside the image, and what is left over.
struct ScatterPosition {
  int32_t y0, x0;
  float ly, lx, mask;
  float fill;  // NaN where a coordinate is, otherwise 0
  bool inside;
  bool has[4];  // which corners the image has

  __device__ __forceinline__ ScatterPosition(float y, float x, float m, int32_t H, int32_t W) {
    inside = y > -1.f && y < H && x > -1.f && x < W;
    fill = y == y && x == x ? 0.f : std::numeric_limits<float>::quiet_NaN();
    mask = m;
    const Floored row = floored(inside ? y : 0.f), column = floored(inside ? x : 0.f);
    y0 = row.corner, x0 = column.corner;
    ly = row.fraction, lx = column.fraction;
    const bool top = inside && y0 >= 0, bottom = inside && y0 < H - 1;
    const bool left = x0 >= 0, right = x0 < W - 1;
    has[0] = top && left, has[1] = top && right;
    has[2] = bottom && left, has[3] = bottom && right;
  }
  __device__ __forceinline__ float weight(int k) const {
    return (k & 2 ? ly : 1.f - ly) * (k & 1 ? lx : 1.f - lx);
  }
};

// The samples whose bins are the window's, nearly always all of a warp: where the window reaches
// beyond the image, there are zeros.
struct ScatterCore {
  float top, bottom, left, right;

  __device__ __forceinline__ ScatterCore(const ScatterParams& params, const ScatterTile& tile)
      : top(static_cast<float>(tile.bin_y)),
        bottom(static_cast<float>(tile.bin_y + params.window.rows)),
        left(static_cast<float>(tile.bin_x)),
        right(static_cast<float>(tile.bin_x + params.window.columns)) {}
  // By coordinates; the exceptions are those of move_off_border and in_window (bilinear.h).
  __device__ __forceinline__ bool has(float y, float x, float mask) const {
    const bool finite = fabsf(mask) <= kMostWindowMask;
    return (y >= top) & (y < bottom) & (x >= left) & (x < right) & (y != -1.f) & (x != -1.f) &
           finite;
  }
};

// Of dot products of the gradient with four corners: the gradients of y, x and mask, by differences
// that they share. Of what is not finite these would be NaN, where Sample's derivatives are not.
struct SamplingGradients {
  float dy, dx, mask;

  __device__ __forceinline__ SamplingGradients(const float (&dot)[4], float ly, float lx,
                                               float modulation) {
    const float down = dot[2] - dot[0], across = dot[1] - dot[0];
    const float twist = (dot[3] - dot[1]) - down;
    const float slope = fmaf(lx, twist, down);
    mask = fmaf(ly, slope, fmaf(lx, across, dot[0]));
    dy = slope, dx = fmaf(ly, twist, across);
    if (!(fabsf(slope) <= std::numeric_limits<float>::max())) {
      const Sample<float> sample{0, 0, ly, lx, 0, 0.f};
      dy = sample.d_dy(dot[0], dot[1], dot[2], dot[3]);
      dx = sample.d_dx(dot[0], dot[1], dot[2], dot[3]);
      mask = sample.interpolate(dot[0], dot[1], dot[2], dot[3]);
    }
    dy *= modulation, dx *= modulation;
  }
};

}  // namespace dcn
