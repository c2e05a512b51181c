// What the runs of the kernels share: the launch, sampling maps, and the packed weight.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "convolution.h"
#include "cuda/kernels/fused/fused_math.cuh"
#include "cuda/kernels/fused/fused_params.h"
#include "device_memory.h"

namespace emulation {

// How a kernel of the forward pass' shape is launched.
struct GemmRun {
  int tile = 0, split_k = 1;
  int merged = 1;           // convolution groups that run as one
  int multiprocessors = 3;  // few, so that a CTA has several tiles
  bool nchw = false;
  bool short_offset = false, short_mask = false;  // maps of the image's type, not f32
  bool whole = false;                             // 3xTF32: the weight in one part
};

// Convolution groups of which so many run as one in the backward pass: 32 groups, depthwise with
// one output channel a channel and with two, ragged channels, more inputs than outputs and more
// taps than a chunk has, an offset group for each of the merged groups.
struct MergedSizes {
  int merged;
  Sizes sizes;
};
constexpr MergedSizes kMergedSizes[] = {
    {8, {1, 64, 9, 9, 64, 3, 3, 8}},
    {64, {2, 128, 7, 11, 128, 3, 3, 128}},
    {32, {1, 64, 9, 8, 128, 3, 3, 64, 1, 2, 1, 1, /*mask=*/false}},
    {15, {1, 30, 7, 19, 45, 3, 3, 15}},
    {4, {1, 80, 9, 9, 24, 5, 3, 8, 1, 1, 0, 2}},
    {4, {1, 64, 9, 13, 32, 2, 3, 8, 2}},
};

// What every family of kernels is tested in.
using Maths = testing::Types<dcn::MathF16, dcn::MathBF16, dcn::MathTf32, dcn::Math3xTf32>;

// Mantissa bits of the values that Math takes.
template <class Math>
constexpr int kBits = Math::kKind == dcn::FusedMath::kF16    ? 11
                      : Math::kKind == dcn::FusedMath::kBF16 ? 8
                                                             : 24;
// Errors that it may make, as a part of the largest value.
template <class Math>
constexpr double kTolerance = Math::kKind == dcn::FusedMath::kF16    ? 2e-3
                              : Math::kKind == dcn::FusedMath::kBF16 ? 2e-2
                              : Math::kKind == dcn::FusedMath::kTf32 ? 2e-3
                                                                     : 1e-6;

inline dcn::SamplingMap map_of(const dcn::ConvShape& shape, const void* data, int32_t channels,
                               dcn::Dtype dtype = dcn::Dtype::kF32) {
  if (data == nullptr) return {};
  const int32_t pixels = shape.output_pixels_per_image();
  return {data, dtype, int64_t{channels} * pixels, pixels, shape.Q, 1};
}

// A map in memory, in f32 or in Math's type.
template <class Math>
struct DeviceMap {
  DeviceMap(const dcn::ConvShape& shape, const std::vector<float>& values, int32_t channels,
            bool is_short)
      : wide(to_device<float>(values)), narrow(to_device<typename Math::Element>(values)) {
    constexpr auto kShort =
        Math::kKind == dcn::FusedMath::kBF16 ? dcn::Dtype::kBF16 : dcn::Dtype::kF16;
    map = is_short ? map_of(shape, narrow.data(), channels, kShort)
                   : map_of(shape, wide.data(), channels);
  }
  DeviceArray<float> wide;
  DeviceArray<typename Math::Element> narrow;
  dcn::SamplingMap map;
};

// The weight in the order of the steps, for the forward pass or the transposed convolution, from
// [K, C/G, R, S] in memory or, with `channels_last`, [K, R, S, C/G].
template <class Math>
DeviceArray<uint8_t> packed_weight(const Convolution& conv, bool transposed, int32_t tile_channels,
                                   bool channels_last = false, int merged = 1, bool whole = false,
                                   int32_t most_ctas = 0) {
  using Element = typename Math::Element;
  const dcn::ConvShape& shape = conv.shape;
  const int32_t taps = shape.taps(), channels = shape.channels_per_group();
  const int32_t stride_c = channels_last ? 1 : taps, stride_k = channels * taps;
  const int32_t stride_tap = channels_last ? channels : 1;
  std::vector<float> values(conv.weight.size());
  for (int32_t i = 0; i < static_cast<int32_t>(values.size()); ++i) {
    const int32_t k = i / stride_k, c = i / taps % channels, tap = i % taps;
    values[k * stride_k + c * stride_c + tap * stride_tap] = conv.weight[i];
  }
  auto weight = to_device<Element>(values);

  dcn::PackWeightParams params{};
  params.shape = dcn::merged(transposed ? dcn::transposed(shape) : shape, merged);
  params.layout = dcn::fused_layout(params.shape, sizeof(Element));
  params.math = Math::kKind;
  params.whole = whole;
  params.weight = weight.data();
  params.prefetch[0] = dcn::prefetch_of(weight.data(), values.size() * sizeof(Element));
  params.merged = {params.shape, merged};
  params.stride_g = int64_t{shape.output_channels_per_group()} * stride_k;
  params.stride_k = transposed ? stride_c : stride_k;
  params.stride_c = transposed ? stride_k : stride_c;
  params.stride_r = int64_t{shape.S} * stride_tap;
  params.stride_s = stride_tap;
  params.tile_channels = tile_channels;
  const int64_t tiles = int64_t{params.shape.G} * params.layout.steps *
                        dcn::tiles_of(params.shape.output_channels_per_group(), tile_channels);
  const int parts = whole ? 1 : dcn::weight_parts(Math::kKind);
  DeviceArray<uint8_t> packed(tiles * parts * tile_channels * dcn::kSliceBytes);
  params.packed = packed.data();
  params.most_ctas = most_ctas;
  if (dcn::launch_pack_weight(params, nullptr) != cudaSuccess || !packed.guards_intact()) {
    fail("the weight is not packed");
  }
  return packed;
}

// Values of [N, P, Q, K] or [N, K, P, Q] as [N, P, Q, K].
inline std::vector<float> channels_last(const std::vector<float>& values, int64_t images,
                                        int64_t pixels, int64_t channels, bool nchw) {
  if (!nchw) return values;
  std::vector<float> result(values.size());
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t k = 0; k < channels; ++k) {
      for (int64_t i = 0; i < pixels; ++i) {
        result[(n * pixels + i) * channels + k] = values[(n * channels + k) * pixels + i];
      }
    }
  }
  return result;
}

}  // namespace emulation
