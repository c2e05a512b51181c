// The gradients of offset and mask on compute capability 9.0, in one kernel.
//
//   grid      x: tiles of output pixels, of which a CTA walks several
//             y: parts of the taps of each offset group
//   CTA       warpgroups of 64 pixels each. A warp has 16, and holds their rows of grad in
//             registers, as fragments of A: a panel of up to kSlices slices of output channels
//   step      64 input channels of a tap: gcol = grad x weight^T by wgmma, the weight's tiles
//             coming by bulk copies; then the dot products of gcol with the four pixels of each
//             sample's square, which were loaded meanwhile
//   order     convolution group > panel > chunk of channels > tap: the neighbourhood of a tile's
//             chunk stays in the L1 for all taps
//
// Sums of a sample lie in shared memory, and belong to one lane: no atomics, one order. Gradients
// are linear in gcol, so panels and groups just go on adding.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../fused/fused_wgmma.cuh"
#include "../kernel_setup.h"
#include "ograd_fma_dots.cuh"
#include "ograd_mma_dots.cuh"

namespace dcn {

template <class Math_, int kTile, bool kRagged>
struct OgradConfig {
  using Math = Math_;
  static constexpr OgradTile tile = kOgradTiles[kTile];
  static constexpr int kSlices = tile.slices, kPanelParts = tile.parts;
  static constexpr int kWarps = 4 * tile.warpgroups;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTilePixels = kWarpPixels * kWarps;
  static constexpr int kParts = weight_parts(Math::kKind);
  using Ring = OgradRing<kParts, kSlices, kPanelParts, tile.stages, kWarps>;
  using Dots =
      std::conditional_t<sizeof(typename Math::Element) == 2, MmaDots<Math, tile.ahead, kRagged>,
                         FmaDots<Math, tile.ahead / 4, kRagged>>;
  static constexpr int kSharedBytes =
      kTileAlignment + Ring::kBytes + kWarps * static_cast<int>(sizeof(OgradPlan));
};

// This lane's part of its two rows of grad, as fragments of A; zeros beyond the last slice. With
// 3xTF32 they are split late: a panel that is split takes twice the registers.
template <class Math, int kSlices>
__device__ __forceinline__ void load_grad(const OgradParams& params, const TileRow& row, int lane,
                                          int32_t group, int32_t panel,
                                          uint32_t (&a)[kSlices][16]) {
  constexpr int kElementBytes = sizeof(typename Math::Element);
  const FusedLayout& layout = params.grad_layout;
  const int64_t pixel = int64_t{row.at.n} * params.shape.output_pixels_per_image() +
                        row.at.p * params.shape.Q + row.at.q;
  const int32_t begin = panel * kSlices * kSliceBytes + lane % 4 * kVectorBytes;
  const int32_t left = layout.group_channels * kElementBytes - begin;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int from_lane = lane / 4 + 8 * r;
    const uint8_t* from =
        static_cast<const uint8_t*>(params.grad) +
        (__shfl_sync(~0u, pixel, from_lane) * layout.channels + group * layout.group_channels) *
            kElementBytes +
        begin;
    const bool exists = __shfl_sync(~0u, row.exists, from_lane);
#pragma unroll
    for (int half = 0; half < 2 * kSlices; ++half) {
      constexpr int kHalfBytes = kSliceBytes / 2;
      uint4 vector = {};
      if (exists && half * kHalfBytes < left) {
        vector = __ldg(reinterpret_cast<const uint4*>(from + half * kHalfBytes));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t value = register_of(vector, i);
        const int at = half % 2 * 8 + 2 * i + r;
        a[half / 2][at] = Math::kKind == FusedMath::kTf32 ? Math::rounded(value) : value;
      }
    }
  }
}

// gcol of a part of a panel at once, beside what is there if `add`.
template <class Math, int kSlices>
__device__ __forceinline__ void multiply_part(float (&gcol)[kOgradChannels / 2],
                                              uint32_t (&a)[kSlices][16], uint32_t tiles,
                                              bool add) {
  if constexpr (weight_parts(Math::kKind) == 1) {
    ptx::wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      multiply<Math>(gcol, a[s], tiles + s * kOgradTileBytes, add || s > 0);
    }
    ptx::wgmma_commit();
#pragma unroll
    for (int s = 0; s < kSlices; ++s) ptx::wgmma_wait(gcol, a[s]);
  } else {
    // Tensor cores cut off what a sum cannot hold, so they sum up a slice only, and slices are
    // added by additions that round. They cut the leading part off themselves. What an infinity
    // leaves over is NaN.
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      uint32_t trailing[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float leading = __uint_as_float(a[s][i] & ~0x1fffu);
        trailing[i] = rounded_when_cut(__uint_as_float(a[s][i]) - leading);
      }
      const uint32_t tile = tiles + s * 2 * kOgradTileBytes;
      float sums[kOgradChannels / 2];
      ptx::wgmma_fence();
      multiply<Math>(sums, trailing, tile, false);
      multiply<Math>(sums, a[s], tile + kOgradTileBytes, true);
      multiply<Math>(sums, a[s], tile, true);
      ptx::wgmma_commit();
      ptx::wgmma_wait(sums, trailing);
      ptx::wgmma_wait(sums, a[s]);
#pragma unroll
      for (int i = 0; i < kOgradChannels / 2; ++i) {
        gcol[i] = add || s > 0 ? gcol[i] + sums[i] : sums[i];
      }
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_ograd_sm90_kernel(const __grid_constant__ OgradParams params) {
  using Math = typename Config::Math;
  constexpr int kElementBytes = sizeof(typename Math::Element);
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t aligned = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);
  const int thread = kept(threadIdx.x), lane = thread % 32;
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;

  __shared__ OgradWork work;  // not in registers
  if (thread == 0) work.set(params, blockIdx.y, Config::tile.panel_slices());
  __syncthreads();
  typename Config::Ring ring(aligned, params, work,
                             (params.pixel_tiles - 1 - blockIdx.x) / gridDim.x + 1, thread);
  OgradPlan* const plan =
      reinterpret_cast<OgradPlan*>(shared_memory + (aligned - start) + Config::Ring::kBytes) +
      thread / 32;
  const OgradSamples<Math> samples{params, work, *plan, lane};
  typename Config::Dots dots(params, work, plan, lane);
  ring.start(params, work);

  const int64_t image_bytes = int64_t{shape.H} * shape.W * layout.channels * kElementBytes;
  for (int32_t tile = blockIdx.x; tile < params.pixel_tiles; tile += gridDim.x) {
    const auto row_of = [&] {
      const uint32_t index = static_cast<uint32_t>(tile) * Config::kTilePixels +
                             thread / 32 * kWarpPixels + thread % kWarpPixels;
      return TileRow{pixel_at(shape, params.walk, min(index, params.pixels - 1)),
                     index < params.pixels};
    };
    {
      const TileRow row = row_of();
      const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);  // of the warp
      samples.plan_taps(row, static_cast<uint32_t>((row.at.n - first_image) * image_bytes));
    }
#pragma unroll 1
    for (int32_t pass = 0; pass < params.groups * work.panels; ++pass) {
      // Found again rather than kept: the steps have no register to spare.
      asm volatile("" : "+r"(tile));
      const TileRow row = row_of();
      const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);
      const int32_t group = pass / work.panels, panel = pass - group * work.panels;
      uint32_t a[Config::kPanelParts][Config::kSlices][16];
#pragma unroll
      for (int part = 0; part < Config::kPanelParts; ++part) {
        load_grad<Math>(params, row, lane, work.first_group + group,
                        panel * Config::kPanelParts + part, a[part]);
      }
      dots.begin(static_cast<const uint8_t*>(params.image) + first_image * image_bytes +
                     ((work.first_group + group) * layout.group_channels + work.first_channel) *
                         kElementBytes,
                 params.channels * kElementBytes);
      int32_t left = work.chunks * work.taps;
      float gcol[kOgradChannels / 2];
#pragma unroll 1
      for (; left > 0; --left) {
#pragma unroll
        for (int part = 0; part < Config::kPanelParts; ++part) {
          multiply_part<Math>(gcol, a[part], ring.wait(), part > 0);
          ring.release(params, work);
        }
        dots.step(gcol, left > 1);
      }
    }
    asm volatile("" : "+r"(tile));
    samples.finish(row_of());
  }
}

template <class Config>
cudaError_t launch_ograd_config(OgradParams params, int tap_parts, int multiprocessors,
                                cudaStream_t stream) {
  const ConvShape& shape = params.shape;
  params.pixels = static_cast<uint32_t>(shape.output_pixels());
  params.pixel_tiles = static_cast<int32_t>(tiles_of(shape.output_pixels(), Config::kTilePixels));
  params.walk = pixel_walk(shape, Config::kWarps);
  params.kernel_width = Divisor(shape.S);
  params.tap_parts = Divisor(tap_parts);
  params.groups = std::max(shape.G / shape.D, 1);
  params.channels =
      shape.D > shape.G ? params.layout.offset_channels : params.layout.group_channels;
  const int rows = shape.D * tap_parts;
  const int columns = std::clamp(multiprocessors / rows, 1, static_cast<int>(params.pixel_tiles));
  return launch_kernel<dcn_ograd_sm90_kernel<Config>>(dim3(columns, rows), Config::kThreads,
                                                      Config::kSharedBytes, stream, params);
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math, int kTile = 0>
cudaError_t launch_ograd_math(const OgradParams& params, OgradChoice choice, int multiprocessors,
                              cudaStream_t stream) {
  if constexpr (kTile == kOgradTileCount) {
    return cudaErrorInvalidValue;
  } else {
    constexpr OgradTile kCandidate = kOgradTiles[kTile];
    if constexpr (kCandidate.step_time(Math::kKind) > 0) {
      if (choice.tile == kTile) {
        if (!ograd_ragged(params.shape)) {
          return launch_ograd_config<OgradConfig<Math, kTile, false>>(params, choice.tap_parts,
                                                                      multiprocessors, stream);
        }
        if constexpr (kCandidate.ragged) {
          return launch_ograd_config<OgradConfig<Math, kTile, true>>(params, choice.tap_parts,
                                                                     multiprocessors, stream);
        }
      }
    }
    return launch_ograd_math<Math, kTile + 1>(params, choice, multiprocessors, stream);
  }
}

}  // namespace dcn
