// What comes before and behind the weight gradient of the scatter: in 32 bits the gradient,
// transposed by tiles, and the sum of what the CTAs have left.
#pragma once

#include "../kernel_setup.h"
#include "../sampling.cuh"
#include "scatter_shared.cuh"

namespace dcn {

constexpr int kTransposePixels = 32;  // of a CTA
constexpr int kTransposeThreads = 256;

template <class Math>
__global__ void __launch_bounds__(kTransposeThreads)
    dcn_scatter_transpose_kernel(const __grid_constant__ ScatterParams params) {
  using Element = typename Math::Element;
  constexpr int kVector = kVectorBytes / sizeof(Element);
  constexpr int kPixelVectors = kPanelChannels / kVector, kRowVectors = kTransposePixels / kVector;
  constexpr int kRow = kTransposePixels + kVector;  // whole vectors, and other banks
  constexpr int kTileParts = kScatterPixels / kTransposePixels;
  __shared__ __align__(16) Element turned[kPanelChannels * kRow];
  ptx::launch_dependents();
  const ConvShape& shape = params.shape;
  const int32_t part = blockIdx.x % kTileParts;
  ScatterTile tile;
  tile.find(params, blockIdx.x / kTileParts);
  const int32_t group_channels = params.grad_layout.group_channels;
  const int32_t rows = shape.G * params.work.rows();
  uint4* const to = static_cast<uint4*>(params.transposed_grad) +
                    (int64_t{tile.number} * rows * kTileParts + part) * kRowVectors;
  for (int32_t first = 0; first < rows; first += kPanelChannels) {
    const int32_t group = first / params.work.rows(), channel = first - group * params.work.rows();
    for (int i = threadIdx.x; i < kTransposePixels * kPixelVectors; i += kTransposeThreads) {
      const int32_t pixel = i / kPixelVectors, c = i % kPixelVectors * kVector;
      const int32_t inside = part * kTransposePixels + pixel;
      const int32_t p = tile.p + inside / kScatterColumns, q = tile.q + inside % kScatterColumns;
      Vector<Element, kVector> value = {};
      if (p < shape.P && q < shape.Q && channel + c < group_channels) {
        const int64_t flat = int64_t{tile.n} * shape.output_pixels_per_image() + p * shape.Q + q;
        value = *reinterpret_cast<const Vector<Element, kVector>*>(
            static_cast<const Element*>(params.grad) + flat * params.grad_layout.channels +
            group * group_channels + channel + c);
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        Element each = value.lane[e];
        if constexpr (Math::kKind == FusedMath::kTf32) each = __uint_as_float(round_to_tf32(each));
        turned[(c + e) * kRow + pixel] = each;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kPanelChannels * kRowVectors; i += kTransposeThreads) {
      const int row = i / kRowVectors, v = i % kRowVectors;
      to[int64_t{first + row} * kTileParts * kRowVectors + v] =
          reinterpret_cast<const uint4*>(turned + row * kRow)[v];
    }
    __syncthreads();
  }
  ptx::wait_for_previous_grid();
}

// Adds what the CTAs have left, in order: a thread has a part of them, for a vector of weights.
constexpr int kSumParts = 8;
constexpr int kSumVectors = 32;  // of a CTA
constexpr int kSumThreads = kSumParts * kSumVectors;
static_assert(kUnitSums % (4 * kSumVectors) == 0);

template <class Math>
__device__ __forceinline__ void sum_weights(const ScatterParams& params, int64_t cta) {
  using Element = typename Math::Element;
  __shared__ float4 sums[kSumParts][kSumVectors];
  const ConvShape& shape = params.shape;
  const ScatterWork& work = params.work;
  const int lane = threadIdx.x % kSumVectors, part = threadIdx.x / kSumVectors;
  constexpr int kUnitStrips = kUnitSums / 4 / kSumVectors;
  const auto all_units = static_cast<int32_t>(cta / kUnitStrips);
  const auto strip_tap = static_cast<int32_t>(cta - int64_t{all_units} * kUnitStrips);
  const int32_t offset_group = all_units / work.units, unit = all_units % work.units;
  // [16 output channels][tap][lane][4]: fragments of sums.
  const int32_t panel = unit % work.panels, block_chunk = unit / work.panels;
  const int32_t chunk = block_chunk % work.chunks, block = block_chunk / work.chunks;
  const int32_t tap = chunk * kScatterTaps + strip_tap % kScatterTaps;
  const int32_t first_k = panel * kPanelChannels + strip_tap / kScatterTaps * 16;
  const int32_t per_group = shape.output_channels_per_group();
  if (tap >= shape.taps() || first_k >= per_group) return;  // in 32 bits nobody has left anything
  const int32_t first = params.cta_of(offset_group * work.tiles);
  const int32_t ctas = params.cta_of((offset_group + 1) * work.tiles - 1) + 1 - first;
  const int32_t end = first + (part + 1) * ctas / kSumParts;
  float4 sum = {};
  const auto add = [&sum](const float4& more) {
    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
  };
#pragma unroll 4
  for (int32_t whose = first + part * ctas / kSumParts; whose < end; ++whose) {
    const auto* const left =
        reinterpret_cast<const float4*>(params.sums_of(whose, offset_group, unit));
    add(__ldcg(left + strip_tap * kSumVectors + lane));
  }
  sums[part][lane] = sum;
  __syncthreads();
  if (part > 0) return;
  for (int p = 1; p < kSumParts; ++p) add(sums[p][lane]);

  const ScatterBlock at = scatter_block(params.layout, params.blocks, offset_group, block);
  const int32_t r = tap / shape.S, s = tap - r * shape.S;
  const float each[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int32_t k = first_k + lane / 4 + j / 2 * 8;
    const int32_t c = lane % 4 * 2 + j % 2;
    if (c >= at.channels || k >= per_group) continue;
    const int32_t channel =
        unpadded_channel(params.layout, at.channel - at.group * params.layout.group_channels + c);
    narrow(each[j],
           static_cast<Element*>(params.grad_weight)[(at.group * per_group + k) * params.stride_k +
                                                     channel * params.stride_c +
                                                     r * params.stride_r + s * params.stride_s]);
  }
}

}  // namespace dcn
