// A deformable convolution with random values, and its gradients in f64, plainly computed: what the
// kernels that the emulator runs are compared with.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "shape.h"

namespace emulation {

// Sizes of a test; the rest follows.
struct Sizes {
  int N = 1, C = 8, H = 6, W = 6, K = 8, R = 3, S = 3;
  int G = 1, D = 1, stride = 1, pad = 1, dil = 1;
  bool mask = true;
};
dcn::ConvShape shape_of(const Sizes& sizes);

struct Convolution {
  // `bits`: of the mantissa of image, weight and grad. `spread`: of offsets, in pixels.
  Convolution(const Sizes& sizes, int bits, float spread, uint32_t seed);

  // Rounds the maps to what a type of so many bits holds.
  void round_offset(int bits);
  void round_mask(int bits);

  struct Corner {
    int64_t pixel;        // of all images
    double weight;        // the mask not included
    double by_dy, by_dx;  // its derivatives
  };
  struct Point {
    double mask, fill;  // fill: what the sample is worth without its corners
    int corners = 0;    // that are inside the image
    Corner corner[4];
    bool inside;
    int y0, x0;
    float ly, lx;
  };
  Point sample(int n, int p, int q, int d, int tap) const;

  std::vector<double> output() const;       // [N, P, Q, K]
  std::vector<double> grad_input() const;   // [N, H, W, C]
  std::vector<double> grad_weight() const;  // [K, C/G, R, S]
  std::vector<double> grad_offset() const;  // of finite samples; as offset
  std::vector<double> grad_mask() const;    // as mask

  dcn::ConvShape shape;
  bool has_mask;
  std::vector<float> image, weight, bias, grad;  // NHWC; [K, C/G, R, S]; [K]; [N, P, Q, K]
  std::vector<float> offset, mask;               // [N, 2 D R S, P, Q]; [N, D R S, P, Q]

 private:
  template <class Visit>
  void each_sample(Visit visit) const;
  template <class Visit>
  void each_column(Visit visit) const;
};

// The largest error as a part of the largest value, or infinity where one is finite and the other
// is not.
double error_of(const std::vector<float>& got, const std::vector<double>& wanted);

}  // namespace emulation
