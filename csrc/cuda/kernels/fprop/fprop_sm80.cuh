// The fused forward pass for compute capability 8.0 and newer: an implicit GEMM whose A is sampled
// straight into the registers of mma.sync.
//
//   grid      x: tiles of kTilePixels output pixels (each CTA walks several)
//             y: tiles of kTileChannels output channels of each convolution group
//   warp      16 or 32 pixels by all channels of the tile: what it samples, no other warp needs
//   step      a tap of a slice (fused_layout.h). The warp mixes its pixels' corners into fragments
//             of A, and asks for the corners of the next step; then it multiplies with the weights
//             of the step, which come as fragments of B through a ring in shared memory
//             (weight_copies.cuh), half a step at a time
//   epilogue  adds the bias, stores once
//
// Bound by what passes through the L1, gathers and weights alike: a warp of 32 pixels reads as much
// of one as of the other at 128 channels, so it is the tile of choice. One row of the four that a
// lane owns is on its way at a time; other warps fill the wait.
#pragma once

#include <type_traits>

#include "../fused/fused_gather.cuh"
#include "../fused/fused_mma.cuh"
#include "../fused/weight_copies.cuh"
#include "../kernel_setup.h"
#include "fprop_epilogue.cuh"
#include "fprop_launch.h"
#include "narrow_gather.cuh"

namespace dcn {

template <class Math_, int kTile>
struct FpropSm80Config {
  using Math = Math_;
  static constexpr FpropTile tile = kFpropTiles[kTile];
  static constexpr int kTileChannels = tile.channels;
  static constexpr int kTilePixels = tile.pixels;
  static constexpr int kRowTiles = tile.warp_pixels / kWarpPixels;
  static constexpr int kThreads = tile.pixels / tile.warp_pixels * 32;
  // On a multiprocessor, by registers.
  static constexpr int kCtas = ctas_of(tile, Math::kKind);
  static constexpr int kRegisters = 16 * weight_parts(Math::kKind);  // of A, for 16 pixels
  static constexpr int kHalfBytes = weight_tile_bytes(tile, Math::kKind) / 2;
  // The first corners of the next step are loaded when half the fragments of this one are free,
  // or all where the sums take half of the registers.
  static constexpr bool kLateLoads = kRowTiles == 2;
  static constexpr int kLoadsAfterHalf = kRowTiles * kTileChannels < 256 ? 0 : 1;
  using Gather = std::conditional_t<tile.narrow, NarrowGather<Math>,
                                    WideGather<Math, tile.rows_in_flight, kRowTiles>>;
  using Weights = WeightCopies<kHalfBytes, tile.stages, kThreads>;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kCtas)
    dcn_fprop_sm80_kernel(const __grid_constant__ FpropParams params) {
  using Math = typename Config::Math;
  extern __shared__ __align__(16) uint8_t shared_memory[];
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;
  const int thread = kept(threadIdx.x);
  const int32_t group = params.channel_tiles.quotient(blockIdx.y);
  const int32_t channel_tile = blockIdx.y - group * params.channel_tiles.value;

  typename Config::Weights weights(shared_memory,
                                   static_cast<const uint8_t*>(params.weight) +
                                       int64_t{blockIdx.y} * layout.steps * 2 * Config::kHalfBytes,
                                   layout.steps, thread);
  float* const bias = reinterpret_cast<float*>(
      shared_memory + Config::tile.stages * Config::kHalfBytes + kBarrierBytes);
  uint8_t* const plans = reinterpret_cast<uint8_t*>(bias + Config::kTileChannels);
  TileBias<Config>::store(TileBias<Config>(params, group, channel_tile).load(), bias);
  __syncthreads();
  typename Config::Gather gather(params, plans, group, thread);

  float sums[Config::kRowTiles][Config::kTileChannels / 2];
  uint32_t a[Config::kRowTiles][Config::kRegisters];
  for (uint32_t first = blockIdx.x * Config::kTilePixels; first < params.pixels;
       first += gridDim.x * Config::kTilePixels) {
    const auto row_of = [&](int r) {
      const uint32_t own = unkept(thread);
      return tile_row(params, unkept(first),
                      own / 32 * Config::tile.warp_pixels + r * kWarpPixels + own % kWarpPixels);
    };
#pragma unroll
    for (auto& row_tile : sums) {
#pragma unroll
      for (float& sum : row_tile) sum = 0.f;
    }

    for (int32_t step = 0; step < layout.steps;) {
      const FusedStep at = step_at(layout, shape.taps(), step);
      int32_t left = gather.run_length(params, at);
      step += left;
      gather.begin_tiles(row_of, at);
#pragma unroll 1
      while (left-- > 0) {
#pragma unroll
        for (int r = 0; r < Config::kRowTiles; ++r) {
          uint32_t value[4][4];
          gather.step(value, !Config::kLateLoads && left > 0, r);
          to_fragments<Math>(value, thread & 4, a[r]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          weights.ask();
          multiply_half<Math>(sums, a, half, weights.wait(), thread % 32);
          weights.release();
          if constexpr (Config::kLateLoads) {
            if (half == Config::kLoadsAfterHalf) left > 0 ? gather.start() : gather.stop();
          }
        }
      }
    }

    // Found again rather than kept: the loop above has no register to spare.
    const uint32_t row = unkept(blockIdx.y), out_group = params.channel_tiles.quotient(row);
    const uint32_t out_tile = row - out_group * params.channel_tiles.value;
    uint8_t* const exchange = plans + unkept(threadIdx.x) / 32 * (Config::kRowTiles * kPlanBytes);
#pragma unroll
    for (int r = 0; r < Config::kRowTiles; ++r) {
      const OutputTile<Math> out(params, bias, exchange, out_group,
                                 out_tile * Config::kTileChannels, row_of(r), kWarpPixels);
      store_tile(out, sums[r], /*first_store=*/0);
    }
  }
  weights.finish();
}

template <class Config>
cudaError_t launch_fprop_sm80_config(FpropParams params, int multiprocessors, cudaStream_t stream) {
  const FpropTile& tile = Config::tile;
  const int64_t bytes = shared_bytes(tile, Config::Math::kKind, params.layout.steps);
  const cudaError_t error = set_up_kernel<dcn_fprop_sm80_kernel<Config>>(static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  const dim3 grid =
      lay_out_grid(params, params.shape.output_pixels(), tile, Config::kCtas, multiprocessors);
  dcn_fprop_sm80_kernel<Config><<<grid, Config::kThreads, bytes, stream>>>(params);
  return cudaGetLastError();
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_fprop_sm80_math(const FpropParams& params, int tile, int multiprocessors,
                                   cudaStream_t stream) {
  return with_tile<80, Math>(tile, [&](auto index) {
    return launch_fprop_sm80_config<FpropSm80Config<Math, index()>>(params, multiprocessors,
                                                                    stream);
  });
}

}  // namespace dcn
