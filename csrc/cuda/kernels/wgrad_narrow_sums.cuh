// What comes before and behind the weight gradient of narrow offset groups: the gradient,
// transposed, and the sum of what the warps have left.
#pragma once

#include "fused_samples.cuh"
#include "wgrad_narrow_samples.cuh"

namespace dcn {

// Transposes the gradient, in the order in which steps walk the pixels: a CTA has the pixels of a
// step, and a thread vectors of channels, then of pixels. Zeros beyond the last pixel, and beyond
// the last output channel.
template <class Math>
__global__ void __launch_bounds__(256)
    dcn_wgrad_narrow_transpose_kernel(const __grid_constant__ WgradNarrowParams params) {
  using Element = typename Math::Element;
  constexpr int kVector = kVectorBytes / sizeof(Element);
  constexpr int kPixelVectors = kNarrowChannels / kVector, kRowVectors = kNarrowPixels / kVector;
  constexpr int kRow = kNarrowPixels + kVector;  // whole vectors, and other banks
  __shared__ __align__(16) Element tile[kNarrowChannels * kRow];
  const ConvShape& shape = params.shape;
  const int32_t group_channels = params.grad_layout.group_channels;
  const int32_t rows = shape.G * params.work.rows;
  uint4* const to =
      static_cast<uint4*>(params.transposed_grad) + int64_t{blockIdx.x} * rows * kRowVectors;
  for (int32_t first = 0; first < rows; first += kNarrowChannels) {
    const int32_t group = first / params.work.rows, channel = first - group * params.work.rows;
    for (int i = threadIdx.x; i < kNarrowPixels * kPixelVectors; i += 256) {
      const int row = i / kPixelVectors, c = i % kPixelVectors * kVector;
      const uint32_t index = blockIdx.x * kNarrowPixels + row;
      const OutputPixel pixel = pixel_at(shape, params.walk, min(index, params.pixels - 1));
      const int64_t flat =
          int64_t{pixel.n} * shape.output_pixels_per_image() + pixel.p * shape.Q + pixel.q;
      Vector<Element, kVector> value = {};
      if (index < params.pixels && channel + c < group_channels) {
        value = *reinterpret_cast<const Vector<Element, kVector>*>(
            static_cast<const Element*>(params.grad) + flat * params.grad_layout.channels +
            group * group_channels + channel + c);
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        Element each = value.lane[e];
        if constexpr (Math::kKind == FusedMath::kTf32) each = __uint_as_float(round_to_tf32(each));
        tile[(c + e) * kRow + row] = each;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kNarrowChannels * kRowVectors; i += 256) {
      const int row = i / kRowVectors, v = i % kRowVectors;
      to[first * kRowVectors + i] = reinterpret_cast<const uint4*>(tile + row * kRow)[v];
    }
    __syncthreads();
  }
}

// Adds what the warps have left, in order: a thread has a part of them, for one weight.
constexpr int kSumParts = 8;
constexpr int kSumWeights = 32;  // of a CTA

template <class Math>
__global__ void __launch_bounds__(kSumParts* kSumWeights)
    dcn_wgrad_narrow_sum_kernel(const __grid_constant__ WgradNarrowParams params) {
  using Element = typename Math::Element;
  __shared__ float sums[kSumParts][kSumWeights];
  const ConvShape& shape = params.shape;
  const int own = threadIdx.x % kSumWeights, part = threadIdx.x / kSumWeights;
  const int64_t i = int64_t{blockIdx.x} * kSumWeights + own;
  const auto unit = static_cast<int32_t>(i / kNarrowUnitSums);
  const auto inside = static_cast<int32_t>(i % kNarrowUnitSums);
  const int32_t warps = params.slices * kNarrowPixelWarps;
  const int32_t end = (part + 1) * warps / kSumParts;
  const float* from = params.partial + int64_t{unit} * warps * kNarrowUnitSums + inside;
  float sum = 0.f;
#pragma unroll 8
  for (int32_t w = part * warps / kSumParts; w < end; ++w)
    sum += __ldcg(from + w * kNarrowUnitSums);
  sums[part][own] = sum;
  __syncthreads();
  if (part > 0) return;
  for (int p = 1; p < kSumParts; ++p) sum += sums[p][own];

  const NarrowUnit at(params, unit);
  const int32_t c = inside % kBlockChannels;
  const int32_t k = at.panel * kNarrowChannels + inside / kBlockChannels % kNarrowChannels;
  const int32_t tap = at.chunk * kNarrowChunkTaps + inside / (kBlockChannels * kNarrowChannels);
  if (c >= at.block.channels || k >= shape.output_channels_per_group() || tap >= shape.taps()) {
    return;
  }
  const int32_t channel = unpadded_channel(
      params.layout, at.block.channel - at.block.group * params.layout.group_channels + c);
  const int32_t r = tap / shape.S, s = tap - r * shape.S;
  narrow(sum, static_cast<Element*>(params.grad_weight)
                  [(at.block.group * shape.output_channels_per_group() + k) * params.stride_k +
                   channel * params.stride_c + r * params.stride_r + s * params.stride_s]);
}

}  // namespace dcn
