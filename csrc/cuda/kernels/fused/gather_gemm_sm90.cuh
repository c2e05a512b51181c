// The body of the implicit GEMMs on compute capability 9.0 whose A is gathered straight into the
// registers of wgmma: the forward pass (fprop_sm90.cuh) and the input gradient (dgrad_sm90.cuh).
//
//   grid      x: tiles of kTilePixels pixels of the result, of which a CTA walks several
//             y: tiles of kTileChannels channels of the result, of each convolution group
//             z: parts of the steps, split_k, which are the CTAs of a cluster
//   CTA       kThreads / 128 warpgroups; each multiplies 64 pixels by all channels of the tile, or
//             two share them and take turns at the steps, each with a ring of weight tiles
//   step      a tap of a slice (fused_layout.h). Each warp gathers its 16 pixels' values into
//             fragments of A while the loads of the next step are on their way; the weight tile of
//             the step, packed and swizzled, comes by a bulk copy (weight_tiles.cuh). The forward
//             pass finds the trailing parts of 3xTF32 a step ahead (split_weights.cuh)
//   epilogue  a split exchanges its f32 sums and adds them up in the order of the parts
//             (split_tile.cuh); adds the bias, stores once
//
// Bound by the latency of gathers that hit the L1: a warp scheduler holds two to four warps. So
// nothing but the gather is in the step's way: no exchange between lanes, no barrier of the CTA.
//
// A Config names Math, Params (an FpropParams or more), Gather, Weights, Output, tile, the
// constants used below, the shared memory of a CTA, which tiles are walked and by how many CTAs,
// and which pixel a row of a tile is.
#pragma once

#include "../fprop/fprop_launch.h"
#include "../kernel_setup.h"
#include "../layout/weight_tiles.cuh"
#include "fused_wgmma.cuh"
#include "split_tile.cuh"

namespace dcn {

// Tensor cores cut off what a sum cannot hold, always towards zero: the error grows with gemm_k. So
// where f32's accuracy is asked for, they sum up a step only, and steps are added by additions that
// round.
template <class Config, int kTotals, int kSums>
__device__ __forceinline__ void add_to(float (&totals)[kTotals], const float (&sums)[kSums]) {
  if constexpr (Config::kExactSums) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) totals[i] += sums[i];
  }
}

// Whether a lane's values have their halves of the slice swapped. Where none has, a number that no
// thread has decides: were fragments mere copies of values, the compiler would have values written
// to the registers of fragments that are being multiplied.
template <class Config>
__device__ __forceinline__ bool swaps_halves(int thread) {
  if constexpr (Config::kOddRowsSwapped) return (thread & 4) != 0;
  return Config::kOverlap && (thread & 1024) != 0;
}

// The first step of a part of the steps; the first parts have one more than the others.
__device__ __forceinline__ int32_t first_step(const FpropParams& params, int32_t part) {
  return part * params.part_steps + min(part, params.longer_parts);
}

// step_at, quicker where all taps are one chunk of the only block.
__device__ __forceinline__ FusedStep find_step(const FpropParams& params, int32_t step) {
  const FusedLayout& layout = params.layout;
  if (layout.blocks > 1 || layout.chunk_taps != static_cast<int32_t>(params.taps.value)) {
    return step_at(layout, params.shape.taps(), step);
  }
  const auto slice = static_cast<int32_t>(params.taps.quotient(step));
  return {0, 0, slice, step - slice * layout.chunk_taps};
}

// Every tile of the pixels is walked, in the order of tile_row.
struct AllTiles {
  static constexpr bool kKeepsInfinity = true;  // what it leaves over is 0
  static constexpr bool kSplitsWeights = false;
  static __device__ __forceinline__ int32_t tiles(const FpropParams& params) {
    return params.pixel_tiles;
  }
  static __device__ __forceinline__ int32_t tile_of(const FpropParams&, int32_t turn) {
    return turn;
  }
  static int64_t rows(const FpropParams& params) { return params.shape.output_pixels(); }
  static __device__ __forceinline__ TileRow row_at(const FpropParams& params, uint32_t first,
                                                   uint32_t row) {
    return tile_row(params, first, row);
  }
  // The CTAs of a split walk no second tile: they are given sums where their weights were.
  static constexpr bool kSumsOverPlans = false;
  static int64_t most_columns(const FpropParams& params, int64_t, int) {
    return params.pixel_tiles;
  }
};

// Asks for the weight of a tile of channels, from that step on, for `steps` on each of the passes:
// of as many channels as there are. Warps that take turns ask for every other step.
template <class Config>
__device__ __forceinline__ void start_weights(const FpropParams& params,
                                              typename Config::Weights& weights, int32_t group,
                                              int32_t channel_tile, int32_t step, int32_t steps,
                                              int32_t passes) {
  constexpr int kTilePieces = Config::kTileChannels / kPieceChannels;
  constexpr int kPieceBytes = kPieceChannels * kSliceBytes;
  constexpr int kParts = Config::kPackedParts;
  const int32_t pieces = tiles_of(params.shape.output_channels_per_group(), kPieceChannels);
  const int32_t first = channel_tile * kTilePieces;
  const int64_t of_step = int64_t{group} * params.layout.steps + step;
  const WeightSource source = {
      static_cast<const uint8_t*>(params.weight) +
          (of_step * kParts * pieces + first) * kPieceBytes,
      static_cast<uint32_t>(min(pieces - first, kTilePieces) * kPieceBytes),
      static_cast<uint32_t>(pieces * kPieceBytes),
      static_cast<uint32_t>(Config::tile.turns * kParts * pieces * kPieceBytes)};
  weights.start(source, steps, passes);
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_gather_gemm_sm90_kernel(const __grid_constant__ typename Config::Params params) {
  using Math = typename Config::Math;
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t aligned = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);

  constexpr int kTurns = Config::tile.turns, kSetThreads = Config::kThreads / kTurns;
  const int thread = kept(kTurns == 1 ? threadIdx.x : threadIdx.x % kSetThreads);  // of its set
  // Its first step is `begin` + set.
  const int set = kTurns == 1 ? 0 : ptx::of_warp(threadIdx.x / kSetThreads);
  const int32_t begin = first_step(params, blockIdx.z), end = first_step(params, blockIdx.z + 1);
  const int32_t group = params.channel_tiles.quotient(blockIdx.y);
  const int32_t channel_tile = blockIdx.y - group * params.channel_tiles.value;
  const int32_t tiles = Config::tiles(params);
  if (blockIdx.x >= tiles) return;
  if (params.converted) ptx::wait_for_previous_grid();  // it converts the image
  constexpr int kWeightsStride = weights_stride(Config::tile, Math::kKind);
  const int32_t own_steps = (end - begin + kTurns - 1 - set) / kTurns;
  // All CTAs of a cluster lay out their shared memory alike.
  typename Config::Weights weights(aligned + set * kWeightsStride, params.weight_room, thread);
  const uint32_t weights_end = weights.end() + (kTurns - 1 - set) * kWeightsStride;
  float* const bias = reinterpret_cast<float*>(shared_memory + (weights_end - start));
  uint8_t* const plans = reinterpret_cast<uint8_t*>(bias + Config::kTileChannels);
  const auto sums_arrived = [&] { return ptx::shared_address(bias) - 8; };  // the last barrier
  const auto set_up = [&] {
    if (params.split_k > 1 && thread == 0 && set == 0) ptx::barrier_init(sums_arrived(), 1);
    weights.set_up();
  };
  if constexpr (!Config::kStartsInPlan) {
    TileBias<Config>(params, group, channel_tile).prefetch();
    set_up();
  }
  typename Config::Gather gather(params, plans, group, thread);
  const auto row_of = [&](int32_t tile) {
    const int here = unkept(thread);  // twice a tile
    return Config::row_at(params, static_cast<uint32_t>(tile) * Config::kTilePixels,
                          here / 32 * kWarpPixels + here % kWarpPixels);
  };

  float sums[Config::kTileChannels / 2];
  float totals[Config::kExactSums ? Config::kTileChannels / 2 : 1];

  const auto set_to_zero = [&] {
#pragma unroll
    for (float& sum : sums) sum = 0.f;
#pragma unroll
    for (float& total : totals) total = 0.f;
  };

  bool started = false;
  for (int32_t turn = blockIdx.x; turn < tiles; turn += gridDim.x) {
    int32_t tile = Config::tile_of(params, turn);
    if constexpr (!Config::kStartsInPlan) set_to_zero();

    for (int32_t step = begin; step < end;) {
      const FusedStep at =
          Config::kStartsInPlan && step == 0 ? FusedStep{} : find_step(params, step);
      const auto meanwhile = [&] {
        if (!started) {
          set_up();
          TileBias<Config>(params, group, channel_tile).prefetch();
        }
        if (step == begin) set_to_zero();
      };
      // Where it can, while the first corners come: it waits for the kernel before.
      const auto start_once = [&] {
        if (started) return;
        const uint32_t own_bias = TileBias<Config>(params, group, channel_tile).load();
        start_weights<Config>(params, weights, group, channel_tile, begin + set, own_steps,
                              (tiles - 1 - blockIdx.x) / gridDim.x + 1);
        TileBias<Config>::store(own_bias, bias);
      };
      int32_t left = min(end - step, gather.run_length(params, at));
      if constexpr (kTurns == 1) {
        if constexpr (Config::kStartsInPlan) {
          gather.begin(row_of(tile), at, meanwhile, start_once);
        } else {
          start_once();
          gather.begin(row_of(tile), at);
        }
        step += left;
      } else {
        left = own_steps;
        gather.begin_turns(row_of(tile), at, set, meanwhile, start_once);
        step = end;  // it is one run (turns_fit)
      }
      if (!started) {
        __syncthreads();
        if constexpr (Config::kSplitsWeights) weights.split();
      }
      started = true;
      uint32_t a[16 * weight_parts(Math::kKind)] = {};
#pragma unroll 1
      while (left-- > 0) {
        uint32_t value[4][4];
        const auto wait = [&] {
          if constexpr (!Config::kOverlap) ptx::wgmma_wait(sums, a);
          add_to<Config>(totals, sums);
        };
        if constexpr (Config::kWaitsInStep) {
          gather.step(value, left > 0, wait);
        } else {
          wait();
          gather.step(value, left > 0);
        }
        // Of the step before; its fragments and weight tile are free.
        if constexpr (Config::kOverlap) ptx::wgmma_wait(sums, a);
        const bool there = weights.there();
        weights.release_previous();
        const uint32_t b = weights.wait(there);
        to_fragments<Math, Config::kKeepsInfinity>(value, swaps_halves<Config>(thread), a);
        ptx::wgmma_fence();
        multiply_step<Math>(sums, a, b, Config::kTileChannels * kSliceBytes);
        ptx::wgmma_commit();
        weights.advance();
        if constexpr (Config::kSplitsWeights) {
          if (left > 0 || step < end || turn + gridDim.x < tiles) weights.split();
        }
      }
      ptx::wgmma_wait(sums, a);
    }
    if constexpr (Config::kExactSums) {
      add_to<Config>(totals, sums);
#pragma unroll
      for (int i = 0; i < Config::kTileChannels / 2; ++i) sums[i] = totals[i];
    }

    // Sums go where weights or plans were, when nobody reads them any more.
    if (kTurns > 1 || params.split_k > 1) __syncthreads();
    if (params.split_k > 1) ptx::cluster_arrive_relaxed();
    // Found again rather than kept: the loop above has no register to spare.
    asm volatile("" : "+r"(tile));
    Config::ended(params, gather, tile, sums);
    static_assert(kTurns == 1 || kTurns * kExchangeBytes <= Config::kPlanBytes);
    const int own_set = kTurns == 1 ? 0 : unkept(threadIdx.x) / kSetThreads;
    // Where the warp's plan was, or behind the sums.
    constexpr int kOutputAt =
        Config::kSumsOverPlans ? static_cast<int>(exchange_bytes(Config::tile, kMostParts)) : 0;
    constexpr int kOutputBytes = Config::kSumsOverPlans ? kExchangeBytes : Config::kPlanBytes;
    uint8_t* const plan = plans + kOutputAt + thread / 32 * kOutputBytes + own_set * kExchangeBytes;
    typename Config::Output out(params, bias, plan, group, channel_tile * Config::kTileChannels,
                                row_of(tile), Config::kRunRows);
    // Found from what is kept anyway: where the weights of the last set of warps end.
    const uint32_t weights_were = ptx::shared_address(bias) - kBarrierBytes;
    const auto store = [&](const auto& all, int first_store) {
      if (params.split_k == 1) return store_tile(out, all, first_store);
      SumExchange exchange{0, sums_arrived(), 0};
      if constexpr (Config::kSumsOverPlans) {
        exchange.sums = ptx::shared_address(plans);
        exchange.phase = (turn - blockIdx.x) / gridDim.x % 2;
      } else {
        exchange.sums = weights_were - params.weight_room * Config::kTileBytes;
      }
      store_split_tile<Config>(out, all, first_store, params.split_k, blockIdx.z, exchange);
    };
    constexpr int kTileStores = Config::kTileChannels / kChannelsPerStore;
    if constexpr (kTurns == 1) {
      store(sums, 0);
    } else {
      float own[Config::kTileChannels / 4];
      add_turns<Config>(sums, own, own_set,
                        weights_were - Config::Weights::kBytes - kWeightsStride);
      store(own, own_set * (kTileStores / 2));
      break;  // there is a CTA for each tile
    }
    out.end([&] { return row_of(tile); });
    if constexpr (Config::kSumsOverPlans) __syncthreads();  // the next tile's plans go there
  }
}

template <class Config>
cudaError_t launch_gather_gemm(typename Config::Params params, int multiprocessors,
                               cudaStream_t stream) {
  const cudaError_t error = set_up_kernel<dcn_gather_gemm_sm90_kernel<Config>>(kFusedSharedBytes);
  if (error != cudaSuccess) return error;
  const int64_t steps = tiles_of(params.layout.steps, params.split_k);
  params.weight_room =
      static_cast<int32_t>(weight_room(Config::tile, Config::Math::kKind, steps, params.split_k));

  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t launch = {};
  launch.gridDim =
      lay_out_grid(params, Config::rows(params), Config::tile, /*ctas=*/1, multiprocessors);
  launch.gridDim.x = static_cast<unsigned>(std::min<int64_t>(
      launch.gridDim.x, Config::most_columns(params, launch.gridDim.y, multiprocessors)));
  launch.blockDim = dim3(Config::kThreads);
  launch.dynamicSmemBytes = Config::shared_bytes(steps, params.split_k);
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = params.split_k > 1 ? 2 : 1;
  // The kernel before packs the weight; this one plans its first samples meanwhile, if it need not
  // wait for the image. Where the kernel before may be anybody's, it may write what is planned
  // from.
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = !params.prepacked || params.converted;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = static_cast<unsigned>(params.split_k);
  return cudaLaunchKernelEx(&launch, dcn_gather_gemm_sm90_kernel<Config>, params);
}

}  // namespace dcn
