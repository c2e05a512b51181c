#include "convolution.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace emulation {
namespace {

float rounded(float value, int bits) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
}

}  // namespace

dcn::ConvShape shape_of(const Sizes& sizes) {
  dcn::ConvShape shape;
  shape.N = sizes.N;
  shape.C = sizes.C;
  shape.H = sizes.H;
  shape.W = sizes.W;
  shape.K = sizes.K;
  shape.R = sizes.R;
  shape.S = sizes.S;
  shape.G = sizes.G;
  shape.D = sizes.D;
  shape.stride_h = shape.stride_w = sizes.stride;
  shape.pad_h = shape.pad_w = sizes.pad;
  shape.dil_h = shape.dil_w = sizes.dil;
  shape.P =
      static_cast<int32_t>(dcn::output_size(sizes.H, sizes.R, sizes.stride, sizes.pad, sizes.dil));
  shape.Q =
      static_cast<int32_t>(dcn::output_size(sizes.W, sizes.S, sizes.stride, sizes.pad, sizes.dil));
  return shape;
}

Convolution::Convolution(const Sizes& sizes, int bits, float spread, uint32_t seed)
    : shape(shape_of(sizes)), has_mask(sizes.mask) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& values, int64_t count, auto value) {
    values.resize(static_cast<size_t>(count));
    std::generate(values.begin(), values.end(), [&] { return value(normal(generator)); });
  };
  const auto in_type = [&](float v) { return rounded(v, bits); };
  const int64_t maps = int64_t{shape.N} * shape.D * shape.taps() * shape.P * shape.Q;
  fill(image, shape.input_pixels() * shape.C, in_type);
  fill(weight, int64_t{shape.K} * shape.channels_per_group() * shape.taps(), in_type);
  fill(bias, shape.K, in_type);
  fill(grad, shape.output_pixels() * shape.K, in_type);
  fill(offset, 2 * maps, [&](float v) { return spread * v; });
  fill(mask, maps, [](float v) { return 1.f / (1.f + std::exp(-v)); });
}

void Convolution::round_offset(int bits) {
  for (float& value : offset) value = rounded(value, bits);
}
void Convolution::round_mask(int bits) {
  for (float& value : mask) value = rounded(value, bits);
}

Convolution::Point Convolution::sample(int n, int p, int q, int d, int tap) const {
  const int map = d * shape.taps() + tap, maps = shape.D * shape.taps();
  const auto at = [&](const std::vector<float>& values, int channel, int channels) {
    return values[static_cast<size_t>(((int64_t{n} * channels + channel) * shape.P + p) * shape.Q +
                                      q)];
  };
  const float y =
      static_cast<float>(shape.origin_y(p, tap / shape.S)) + at(offset, 2 * map, 2 * maps);
  const float x =
      static_cast<float>(shape.origin_x(q, tap % shape.S)) + at(offset, 2 * map + 1, 2 * maps);
  Point point{};
  point.mask = has_mask ? at(mask, map, maps) : 1.;
  const auto H = static_cast<float>(shape.H), W = static_cast<float>(shape.W);
  point.inside = y > -1.f && y < H && x > -1.f && x < W;
  if (!point.inside) {
    const bool defined = y == y && x == x;
    point.fill = point.mask * (defined ? 0. : std::numeric_limits<double>::quiet_NaN());
    return point;
  }
  point.y0 = static_cast<int>(std::floor(y));
  point.x0 = static_cast<int>(std::floor(x));
  point.ly = y - static_cast<float>(point.y0);
  point.lx = x - static_cast<float>(point.x0);
  for (int k = 0; k < 4; ++k) {
    const int row = point.y0 + k / 2, column = point.x0 + k % 2;
    if (row < 0 || row >= shape.H || column < 0 || column >= shape.W) continue;
    const double ly = point.ly, lx = point.lx;
    point.corner[point.corners++] = {(int64_t{n} * shape.H + row) * shape.W + column,
                                     (k / 2 ? ly : 1. - ly) * (k % 2 ? lx : 1. - lx),
                                     (k / 2 ? 1. : -1.) * (k % 2 ? lx : 1. - lx),
                                     (k / 2 ? ly : 1. - ly) * (k % 2 ? 1. : -1.)};
  }
  return point;
}

// visit(row, point, tap, c, g): row: of the output's pixels; c: channel of the image; g: its group.
template <class Visit>
void Convolution::each_sample(Visit visit) const {
  const int per_offset_group = shape.channels_per_offset_group();
  for (int64_t row = 0; row < shape.output_pixels(); ++row) {
    const auto q = static_cast<int>(row % shape.Q), p = static_cast<int>(row / shape.Q % shape.P);
    const auto n = static_cast<int>(row / shape.Q / shape.P);
    for (int d = 0; d < shape.D; ++d) {
      for (int tap = 0; tap < shape.taps(); ++tap) {
        const Point point = sample(n, p, q, d, tap);
        for (int c = d * per_offset_group; c < (d + 1) * per_offset_group; ++c) {
          visit(row, point, tap, c, c / shape.channels_per_group());
        }
      }
    }
  }
}

std::vector<double> Convolution::output() const {
  const int per_group = shape.output_channels_per_group(), channels = shape.channels_per_group();
  std::vector<double> result(static_cast<size_t>(shape.output_pixels() * shape.K));
  for (size_t i = 0; i < result.size(); ++i) result[i] = bias[i % shape.K];
  each_sample([&](int64_t row, const Point& point, int tap, int c, int g) {
    double value = point.fill;
    for (int k = 0; k < point.corners; ++k) {
      value += point.mask * point.corner[k].weight * image[point.corner[k].pixel * shape.C + c];
    }
    for (int k = g * per_group; k < (g + 1) * per_group; ++k) {
      result[row * shape.K + k] +=
          value * weight[(int64_t{k} * channels + c % channels) * shape.taps() + tap];
    }
  });
  return result;
}

// visit(row, point, map, c, value): the gradient of the sample of channel c, which exists inside
// the image only; map: of offsets.
template <class Visit>
void Convolution::each_column(Visit visit) const {
  const int per_group = shape.output_channels_per_group(), channels = shape.channels_per_group();
  each_sample([&](int64_t row, const Point& point, int tap, int c, int g) {
    if (point.corners == 0) return;
    double value = 0;
    for (int k = g * per_group; k < (g + 1) * per_group; ++k) {
      value += double{grad[row * shape.K + k]} *
               weight[(int64_t{k} * channels + c % channels) * shape.taps() + tap];
    }
    visit(row, point, c / shape.channels_per_offset_group() * shape.taps() + tap, c, value);
  });
}

std::vector<double> Convolution::grad_input() const {
  std::vector<double> result(static_cast<size_t>(shape.input_pixels() * shape.C));
  each_column([&](int64_t, const Point& point, int, int c, double value) {
    for (int k = 0; k < point.corners; ++k) {
      result[point.corner[k].pixel * shape.C + c] += point.mask * point.corner[k].weight * value;
    }
  });
  return result;
}

std::vector<double> Convolution::grad_weight() const {
  const int per_group = shape.output_channels_per_group(), channels = shape.channels_per_group();
  std::vector<double> result(weight.size());
  each_sample([&](int64_t row, const Point& point, int tap, int c, int g) {
    double value = point.fill;
    for (int k = 0; k < point.corners; ++k) {
      value += point.mask * point.corner[k].weight * image[point.corner[k].pixel * shape.C + c];
    }
    for (int k = g * per_group; k < (g + 1) * per_group; ++k) {
      result[(int64_t{k} * channels + c % channels) * shape.taps() + tap] +=
          value * grad[row * shape.K + k];
    }
  });
  return result;
}

std::vector<double> Convolution::grad_offset() const {
  std::vector<double> result(offset.size());
  const int64_t pixels = shape.output_pixels_per_image();
  each_column([&](int64_t row, const Point& point, int map, int c, double value) {
    for (int k = 0; k < point.corners; ++k) {
      const Corner& corner = point.corner[k];
      const double by_weight = point.mask * value * image[corner.pixel * shape.C + c];
      const int64_t channel = row / pixels * 2 * shape.D * shape.taps() + 2 * map;
      result[channel * pixels + row % pixels] += by_weight * corner.by_dy;
      result[(channel + 1) * pixels + row % pixels] += by_weight * corner.by_dx;
    }
  });
  return result;
}

std::vector<double> Convolution::grad_mask() const {
  std::vector<double> result(mask.size());
  const int64_t pixels = shape.output_pixels_per_image();
  each_column([&](int64_t row, const Point& point, int map, int c, double value) {
    const int64_t channel = row / pixels * shape.D * shape.taps() + map;
    for (int k = 0; k < point.corners; ++k) {
      result[channel * pixels + row % pixels] +=
          value * point.corner[k].weight * image[point.corner[k].pixel * shape.C + c];
    }
  });
  return result;
}

double error_of(const std::vector<float>& got, const std::vector<double>& wanted) {
  double scale = 0, worst = 0;
  if (got.size() != wanted.size()) return std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isfinite(got[i]) != std::isfinite(wanted[i])) {
      return std::numeric_limits<double>::infinity();
    }
    if (!std::isfinite(wanted[i])) continue;
    scale = std::max(scale, std::fabs(wanted[i]));
    worst = std::max(worst, std::fabs(got[i] - wanted[i]));
  }
  return scale == 0 ? worst : worst / scale;
}

}  // namespace emulation
