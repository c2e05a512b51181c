// The weight gradient where few channels share their offsets, by mma.sync,
//
//   grad_weight[k, c, tap] = sum over pixels of grad[pixel, k] * value[pixel, tap, c]
//
//   grid      units (8 channels of an offset group, 9 taps, 64 output channels) x slices of the
//             output pixels
//   CTA       warps that share the pixels of the slice, and its taps
//   step      32 output pixels of a warp. A lane has a sample: it mixes 8 channels of its corners,
//             and leaves them in shared memory, pixels beside one another. So a lane's vector is
//             its part of fragments of B, and of A a vector of the gradient, transposed before
//   epilogue  a warp leaves its f32 sums; the next kernel adds them in order
//
// Warps wait for nobody.
#pragma once

#include <algorithm>

#include "fused_mma.cuh"
#include "kernel_setup.h"
#include "wgrad_narrow_samples.cuh"
#include "wgrad_narrow_sums.cuh"

namespace dcn {

constexpr uint32_t kNarrowCellHeight = 8;

// A vector's parts for the tensor cores; there is one, but for 3xTF32.
template <class Math, int kRegisters>
struct NarrowParts {
  uint32_t leading[kRegisters];
  uint32_t trailing[weight_parts(Math::kKind) == 2 ? kRegisters : 1];

  __device__ __forceinline__ void set(int i, uint32_t bits) {
    if constexpr (weight_parts(Math::kKind) == 2) {
      split_tf32(bits, leading[i], trailing[i]);
    } else {
      leading[i] = bits;
    }
  }
};

// sums += a row of 16 output channels x a tap's values.
template <class Math>
__device__ __forceinline__ void multiply_narrow(float (&sums)[4], const NarrowParts<Math, 8>& a,
                                                const NarrowParts<Math, 4>& b) {
  const auto multiply = [&](float* to, const uint32_t(&rows)[8], const uint32_t(&values)[4]) {
    multiply_vector<Math>(to, rows, uint4{values[0], values[1], values[2], values[3]});
  };
  if constexpr (weight_parts(Math::kKind) == 1) {
    multiply(sums, a.leading, b.leading);
  } else {
    // Tensor cores cut off what a sum cannot hold: these sums are short, small products first, and
    // added by additions that round.
    float part[4] = {};
    multiply(part, a.trailing, b.leading);
    multiply(part, a.leading, b.trailing);
    multiply(part, a.leading, b.leading);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += part[i];
  }
}

constexpr int kNarrowRowTiles = kNarrowChannels / 16;
template <class Math>
using NarrowSums = float[kNarrowTaps][kNarrowRowTiles][4];

// Adds up the steps from `step` to `last`. `grad`: this lane's vectors. kFull: all of a warp's taps
// and output channels are there.
template <class Math, bool kFull>
__device__ __forceinline__ void walk_narrow(const WgradNarrowParams& params, const NarrowUnit& at,
                                            int32_t first_tap, int32_t taps, int32_t channels,
                                            int32_t step, int32_t last, const uint4* grad,
                                            NarrowValues<typename Math::Element>* values,
                                            NarrowSums<Math>& sums) {
  using Values = NarrowValues<typename Math::Element>;
  constexpr int kRowVectors = kNarrowPixels / Values::kVectorPixels;
  const int lane = threadIdx.x % 32;
  const int64_t step_vectors = int64_t{params.shape.G} * params.work.rows * kRowVectors;
  NarrowSamples<Math, kFull> samples(params, at.plane, at.offset_group, first_tap, taps);
  if (step < last) samples.fetch(step);
#pragma unroll 1
  for (; step < last; ++step) {
    const uint4* const rows = grad + step * step_vectors;
    uint4 row[kNarrowRowTiles][2];
    const auto load = [&](int part) {
#pragma unroll
      for (int m = 0; m < kNarrowRowTiles; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          row[m][r] = __ldg(rows + (m * 16 + 8 * r) * kRowVectors + part * 4);
        }
      }
    };
    samples.run(step, step + 1 < last, values, [&] { load(0); });
#pragma unroll
    for (int part = 0; part < Values::kParts; ++part) {
      NarrowParts<Math, 4> b[kNarrowTaps];
#pragma unroll
      for (int t = 0; t < kNarrowTaps; ++t) {
        const uint4 vector = *reinterpret_cast<const uint4*>(values[t].value[part][lane / 4] +
                                                             lane % 4 * Values::kVectorPixels);
#pragma unroll
        for (int i = 0; i < 4; ++i) b[t].set(i, register_of(vector, i));
      }
#pragma unroll
      for (int m = 0; m < kNarrowRowTiles; ++m) {
        NarrowParts<Math, 8> a;
#pragma unroll
        for (int i = 0; i < 8; ++i) a.set(i, register_of(row[m][i % 2], i / 2));
        if (!kFull && m * 16 >= channels) continue;
#pragma unroll
        for (int t = 0; t < kNarrowTaps; ++t) {
          if (kFull || t < taps) multiply_narrow<Math>(sums[t][m], a, b[t]);
        }
      }
      if (part + 1 < Values::kParts) load(part + 1);
    }
  }
}

template <class Math>
__global__ void __launch_bounds__(kNarrowThreads, narrow_resident(Math::kKind))
    dcn_wgrad_narrow_kernel(const __grid_constant__ WgradNarrowParams params) {
  using Element = typename Math::Element;
  using Values = NarrowValues<Element>;
  __shared__ __align__(16) Values all_values[kNarrowThreads / 32][kNarrowTaps];
  const ConvShape& shape = params.shape;
  const WgradNarrowWork& work = params.work;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto units = static_cast<int32_t>(work.units(shape));
  const int32_t slice = blockIdx.x / units, unit = blockIdx.x - slice * units;
  const NarrowUnit at(params, unit);
  const int32_t first_tap = at.chunk * kNarrowChunkTaps + warp % kNarrowTapWarps * kNarrowTaps;
  const int32_t taps = min(kNarrowTaps, shape.taps() - first_tap);
  if (taps <= 0) return;
  const int32_t channels =
      min(kNarrowChannels, shape.output_channels_per_group() - at.panel * kNarrowChannels);

  const int32_t warps = params.slices * kNarrowPixelWarps;
  const int32_t own = slice * kNarrowPixelWarps + warp / kNarrowTapWarps;
  const auto first = static_cast<int32_t>(int64_t{own} * work.steps / warps);
  const auto last = static_cast<int32_t>(int64_t{own + 1} * work.steps / warps);
  constexpr int kRowVectors = kNarrowPixels / Values::kVectorPixels;
  const uint4* const grad =
      static_cast<const uint4*>(params.transposed_grad) +
      (at.block.group * work.rows + at.panel * kNarrowChannels + lane / 4) * kRowVectors + lane % 4;
  NarrowSums<Math> sums = {};
  Values* const values = all_values[warp];
  if (taps == kNarrowTaps && channels == kNarrowChannels) {
    walk_narrow<Math, true>(params, at, first_tap, taps, channels, first, last, grad, values, sums);
  } else {
    walk_narrow<Math, false>(params, at, first_tap, taps, channels, first, last, grad, values,
                             sums);
  }

  // [unit][warp of pixels][tap][output channel][channel]
  float* const to = params.partial + (int64_t{unit} * warps + own) * kNarrowUnitSums +
                    warp % kNarrowTapWarps * kNarrowTaps * kNarrowChannels * kBlockChannels;
#pragma unroll
  for (int t = 0; t < kNarrowTaps; ++t) {
    if (t >= taps) break;
#pragma unroll
    for (int m = 0; m < kNarrowRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = t * kNarrowChannels + m * 16 + lane / 4 + 8 * r;
        reinterpret_cast<float2*>(to + row * kBlockChannels)[lane % 4] = {sums[t][m][2 * r],
                                                                          sums[t][m][2 * r + 1]};
      }
    }
  }
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_wgrad_narrow_math(WgradNarrowParams params, cudaStream_t stream) {
  params.work = wgrad_narrow_work(params.shape, sizeof(typename Math::Element));
  params.pixels = static_cast<uint32_t>(params.shape.output_pixels());
  params.walk = pixel_walk(params.shape, kNarrowCellHeight);
  params.kernel_width = Divisor(params.shape.S);
  const int64_t units = params.work.units(params.shape);
  cudaError_t error = launch_kernel<dcn_wgrad_narrow_transpose_kernel<Math>>(
      dim3(params.work.steps), 256, 0, stream, params);
  if (error != cudaSuccess) return error;
  error = launch_kernel<dcn_wgrad_narrow_kernel<Math>>(
      dim3(static_cast<unsigned>(units * params.slices)), kNarrowThreads, 0, stream, params);
  if (error != cudaSuccess) return error;
  return launch_kernel<dcn_wgrad_narrow_sum_kernel<Math>>(
      dim3(static_cast<unsigned>(units * kNarrowUnitSums / kSumWeights)), kSumParts * kSumWeights,
      0, stream, params);
}

}  // namespace dcn
