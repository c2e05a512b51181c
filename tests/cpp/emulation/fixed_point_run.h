// The input gradient in fixed point on the emulator. What cuBLAS multiplies for it on a GPU, the
// gradients of the columns, is multiplied here in f64.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "convolution.h"
#include "cuda/kernels/im2col/fixed_point_params.h"
#include "device_memory.h"

namespace emulation {

template <typename Element>
constexpr dcn::Dtype kDtypeOf = std::is_same_v<Element, double>   ? dcn::Dtype::kF64
                                : std::is_same_v<Element, float>  ? dcn::Dtype::kF32
                                : std::is_same_v<Element, __half> ? dcn::Dtype::kF16
                                                                  : dcn::Dtype::kBF16;

// [pixels, G, R*S, C/G]
template <typename Element>
std::vector<Element> gradient_columns(const Convolution& conv) {
  const dcn::ConvShape& shape = conv.shape;
  const int32_t taps = shape.taps(), per_group = shape.channels_per_group();
  const int32_t outputs = shape.gemm_n();
  std::vector<Element> columns;
  for (int64_t pixel = 0; pixel < shape.output_pixels(); ++pixel) {
    for (int32_t i = 0; i < shape.G * taps * per_group; ++i) {
      const int32_t group = i / (taps * per_group), tap = i / per_group % taps, c = i % per_group;
      double sum = 0;
      for (int32_t k = group * outputs; k < (group + 1) * outputs; ++k) {
        sum += double{conv.grad[pixel * shape.K + k]} *
               conv.weight[(int64_t{k} * per_group + c) * taps + tap];
      }
      if constexpr (std::is_same_v<Element, double>) {
        columns.push_back(sum);
      } else {
        columns.push_back(Element(static_cast<float>(sum)));
      }
    }
  }
  return columns;
}

template <typename T>
void raise_largest(const std::vector<float>& values, unsigned long long* largest) {
  auto array = to_device<T>(values);
  dcn::LargestParams params{};
  const auto count = static_cast<int32_t>(values.size());
  params.values = {array.data(), kDtypeOf<T>, count, 0, 0, 1};
  params.images = params.channels = params.height = 1;
  params.width = count;
  params.largest = largest;
  if (dcn::launch_largest(params, nullptr) != cudaSuccess) fail("not launched");
}

// The gradient [N, H, W, C] in f64, by chunks of so many output pixels, in the order given or from
// the last to the first.
template <typename Element>
std::vector<double> run_fixed_point(const Convolution& conv, int32_t chunk_pixels,
                                    bool last_first = false) {
  constexpr bool kWide = std::is_same_v<Element, double>;
  using Map = std::conditional_t<kWide, double, float>;
  const dcn::ConvShape& shape = conv.shape;
  const int64_t count = shape.input_pixels() * shape.C;
  auto offset = to_device<Map>(conv.offset), mask = to_device<Map>(conv.mask);
  const std::vector<Element> values = gradient_columns<Element>(conv);
  DeviceArray<unsigned long long> sums(count * (kWide ? 2 : 1));
  std::fill_n(sums.data(), count * (kWide ? 2 : 1), dcn::kEmptySum);
  auto largest = DeviceArray<unsigned long long>::zeros(dcn::kContributionFactors);
  raise_largest<Element>(conv.grad, largest.data());
  raise_largest<Element>(conv.weight, largest.data() + 1);

  const int32_t plane = shape.output_pixels_per_image(), samples = shape.D * shape.taps();
  dcn::FixedPointScatterParams params{};
  params.bound = dcn::contribution_bound(shape, conv.has_mask, largest.data());
  params.sums = sums.data();
  dcn::ColumnParams& chunk = params.chunk;
  chunk.shape = shape;
  chunk.dtype = kDtypeOf<Element>;
  chunk.offset = {offset.data(), kDtypeOf<Map>, 2ll * samples * plane, plane, shape.Q, 1};
  if (conv.has_mask) {
    chunk.mask = {mask.data(), kDtypeOf<Map>, int64_t{samples} * plane, plane, shape.Q, 1};
    const dcn::LargestParams of_mask{chunk.mask, shape.N, samples,
                                     shape.P,    shape.Q, largest.data() + 2};
    if (dcn::launch_largest(of_mask, nullptr) != cudaSuccess) fail("not launched");
  }
  chunk.tile_units = std::min(4, samples);
  const auto pixels = static_cast<int32_t>(shape.output_pixels());
  const int32_t chunks = (pixels + chunk_pixels - 1) / chunk_pixels;
  for (int32_t i = 0; i < chunks; ++i) {
    const int32_t first = (last_first ? chunks - 1 - i : i) * chunk_pixels;
    chunk.pixels = std::min(chunk_pixels, pixels - first);
    chunk.first_image = first / plane;
    chunk.first_pixel = first % plane;
    const int64_t length = shape.column_length();
    DeviceArray<Element> columns(chunk.pixels * length);
    std::copy_n(values.begin() + first * length, chunk.pixels * length, columns.data());
    chunk.columns = columns.data();
    if (dcn::launch_fixed_point_scatter(params, nullptr) != cudaSuccess) fail("not launched");
  }

  DeviceArray<Element> gradient(count);
  const dcn::FixedPointStoreParams store{params.bound, sums.data(), gradient.data(),
                                         kDtypeOf<Element>, count};
  if (dcn::launch_fixed_point_store(store, nullptr) != cudaSuccess) fail("not launched");
  if (!sums.guards_intact() || !gradient.guards_intact() || !largest.guards_intact()) {
    fail("write outside an array");
  }
  allow_nothing();
  std::vector<double> result;
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (kWide) {
      result.push_back(gradient[i]);
    } else {
      result.push_back(static_cast<float>(gradient[i]));
    }
  }
  return result;
}

}  // namespace emulation
