// The gradients of offset, mask and weight in 16 bits on compute capability 9.0, in one kernel: the
// weight gradient's (wgrad_sm90.cuh), whose samples' corners, once gathered, serve the other two
// gradients as well.
//
//   CTA       a warpgroup for each unit of the tile, with the unit's weight in shared memory
//   step      64 output pixels. The tile of grad is multiplied twice: by the unit's weight, which
//             gives the gradient columns of the samples, in registers, and by their values, which
//             gives the weight gradient
//   order     of a warpgroup's multiplications: the gradient columns of a step, the weight gradient
//             of the step before. The next step's mixing waits for the former alone
//
// A unit has a part of the channels of its samples, and of the output channels: where there are
// several, their gradients are added by owgrad_sum.cu.
#pragma once

#include <type_traits>

#include "../kernel_setup.h"
#include "../wgrad/wgrad_grad_ring.cuh"
#include "../wgrad/wgrad_launch.h"
#include "owgrad_gather.cuh"
#include "owgrad_weights.cuh"

namespace dcn {

template <class Math_, int kTile, int kSlices_>
struct OwgradConfig : WgradConfig<Math_, kTile> {
  using Base = WgradConfig<Math_, kTile>;
  static constexpr int kSlices = kSlices_;  // warpgroups that share their samples
  static constexpr int kRowParts = 4;       // a warpgroup's warps plan its pixels
  using Plan = OwgradPlan<kSlices>;
  // The L1 has what is left over: with three tiles of 256 channels, too little for the gather.
  static constexpr int kStages = Base::kChannels == 256 ? 2 : Base::kStages;
  // Two steps are planned at a time, every second step: for the next one or, where another
  // warpgroup may be a step ahead, for the one after two more.
  static constexpr int kPlanAhead = kSlices == 1 ? 1 : 3;
  static constexpr int kPlannedSteps = kPlanAhead + 3;
  // The first rows' corners are loaded in the step before, once its own are multiplied; with 256
  // channels that costs more, in registers, than it saves.
  static constexpr bool kLoadsEarly = kStages > 2;
  static constexpr int kPanelBytes = kStepPixels * kSliceBytes;
  static constexpr int kColumnStages = 2;  // of a warpgroup: one is written, one multiplied
  static constexpr int kColumnBytes = kColumnStages * kPanelBytes;
  static constexpr int kPanels = Base::kChannels / Base::kSliceChannels;
  static constexpr int kWeightBytes = kPanels * kWeightSliceBytes;  // of a unit
  static constexpr int kSharedBytes =
      kTileAlignment + OwgradConfig::kStages * Base::kGradTileBytes +
      Base::kUnits * (kColumnBytes + kWeightBytes) + kBarrierBytes +
      Base::kWarps / kSlices * kPlannedSteps * static_cast<int>(sizeof(Plan));
  static_assert(kSharedBytes <= kFusedSharedBytes);
  static constexpr bool kIsF16 = Math_::kKind == FusedMath::kF16;
  using Wgrad = std::conditional_t<kIsF16, ptx::PanelWgmmaF16, ptx::PanelWgmmaBF16>;
  using Columns = std::conditional_t<kIsF16, ptx::TileWgmmaF16, ptx::TileWgmmaBF16>;
  // Panels of 64 channels, as wgmma reads them.
  static __device__ __forceinline__ uint32_t place(int row, int vector) {
    return vector / 8 * kPanelBytes + row * kSliceBytes + ((vector ^ row) % 8) * kVectorBytes;
  }
};

// Gradient columns: grad x weight^T.
template <class Config>
__device__ __forceinline__ void multiply_columns(float (&gcol)[32], uint32_t grad_tile,
                                                 uint32_t weight) {
#pragma unroll
  for (int s = 0; s < Config::kPanels; ++s) {
    const uint64_t a = ptx::tile_descriptor(grad_tile + s * Config::kPanelBytes);
    const uint64_t b = ptx::tile_descriptor(weight + s * kWeightSliceBytes);
#pragma unroll
    for (int k = 0; k < 4; ++k) Config::Columns::mma(gcol, a + 2 * k, b + 2 * k, s > 0 || k > 0);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_owgrad_sm90_kernel(const __grid_constant__ OwgradParams params) {
  using Math = typename Config::Math;
  using Plan = typename Config::Plan;
  constexpr int kSlices = Config::kSlices;
  extern __shared__ uint8_t shared_memory[];
  __shared__ SamplingTarget targets[Config::kUnits / kSlices];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t grad_tiles = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);
  const int thread = kept(threadIdx.x);
  const int lane = thread % 32, warp = kept(threadIdx.x / 32);
  // The compiler sees that this is the same for all lanes, as descriptors are.
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const uint32_t columns = grad_tiles + Config::kStages * Config::kGradTileBytes;
  const uint32_t weights = columns + Config::kUnits * Config::kColumnBytes;
  const uint32_t barriers = weights + Config::kUnits * Config::kWeightBytes;
  const int slice = warpgroup % kSlices, sharers = warpgroup / kSlices;
  Plan* const ring = reinterpret_cast<Plan*>(shared_memory + (barriers - start) + kBarrierBytes) +
                     (sharers * 4 + warp % 4) * Config::kPlannedSteps;
  const uint32_t column_tile = columns + warpgroup * Config::kColumnBytes;
  const uint32_t weight = weights + warpgroup * Config::kWeightBytes;
  const uint32_t own_column = column_tile + Config::place(warp % 4 * kWarpPixels + lane / 4,
                                                          OwgradGather<Math>::vector(lane, 0));

  GradRing<Config> grad(grad_tiles, barriers, thread);
  StepPlanner<Math, 16, kStepPixels, Plan, kSlices> planner(params, ring, warp % 4 * kWarpPixels,
                                                            lane);

  for (WgradSegments<Config> segment(params); segment.next(params);) {
    const WgradUnit at = segment.unit(params, warpgroup);
    float sums[Config::kChannels / 2];
#pragma unroll
    for (float& sum : sums) sum = 0.f;
    OwgradGather<Math> gather(static_cast<const typename Math::Element*>(params.input) + at.channel,
                              lane);
    const uint8_t* const grad_vectors = grad.first_vector(params, segment, lane);
    const bool grad_exists = grad.has_vector(params, segment, lane);
    const auto fill = [&](int32_t step, const Plan& plan) {
      grad.fill(params, plan, grad_vectors, grad_exists ? segment.pixels_left(params, step) : 0,
                warp, lane);
    };
    // Of the samples of two steps, planned at `at`, a lane each.
    const auto finish = [&](int32_t step, int32_t at) {
      const int here = unkept(lane);
      const int32_t own = step + here / kWarpPixels, row = here % kWarpPixels;
      const int32_t left = segment.pixels_left(params, own) - warp % 4 * kWarpPixels;
      if (own < segment.steps && row < left) {
        targets[sharers].template store<Math, kSlices>(params, ring[at + here / kWarpPixels], row);
      }
    };
    // Warpgroups that share samples take turns: whose it is to plan two steps, and to finish those
    // that were planned in their place.
    const auto has_turn = [&](int32_t step) { return kSlices == 1 || step / 2 % 2 == slice; };
    // The plans, the weights and, after an odd last step, the first column tile have been read.
    __syncthreads();
    if (thread % 128 == 0 && slice == 0) {
      const int32_t offset_group = at.channel / params.layout.offset_channels;
      const int32_t part = (at.channel - offset_group * params.layout.offset_channels) /
                           (kSlices * Config::kSliceChannels);
      targets[sharers].set(params, offset_group * params.shape.taps() + at.tap,
                           part * params.channel_tiles + segment.first_k / Config::kChannels);
      if (!segment.has_unit(params, warpgroup)) targets[sharers].set_nothing();
    }
    planner.aim(at, segment.first + 2 * slice);
    load_unit_weight<Config>(params, segment, at, weight, thread % 128);
    planner.plan(2 * slice);
    if (kSlices > 1) __syncthreads();
    fill(0, ring[0]);
    if (Config::kLoadsEarly) gather.load(0, ring[0], lane);
    int32_t place = 0;  // of the step in the ring
    uint32_t grad_tile = 0;
    // The step's values and its grad, of which those that the last one multiplied are free.
    const auto multiply_values = [&](int32_t step, uint32_t tile) {
      const uint64_t a =
          ptx::panel_descriptor(column_tile + step % Config::kColumnStages * Config::kPanelBytes);
      const uint64_t panel = ptx::panel_descriptor(tile);
#pragma unroll
      for (int k = 0; k < kStepPixels / 16; ++k) {
        Config::Wgrad::mma(sums, a + k * kSliceBytes, panel + k * kSliceBytes);  // 16 rows
      }
    };
    // Of the step before `step`, once its multiplications have ended. Who sees that sees the plans
    // and dot products that were left before.
    const auto release_previous = [&](int32_t step) {
      ptx::wgmma_wait(sums);
      if (kSlices > 1) __syncwarp();
      if (step > 0) grad.release_previous(lane);
    };

#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const bool more = step + 1 < segment.steps;
      Plan& plan = ring[place];
      const int32_t next = place + 1 == Config::kPlannedSteps ? 0 : place + 1;
      const uint32_t column = own_column + step % Config::kColumnStages * Config::kPanelBytes;
      const uint32_t tile = grad.wait();
      // For the grad, the values and, at first, the weight. It waits for loads too: new ones set
      // out below, or have been on their way for a while.
      ptx::async_proxy_fence();
      if (!Config::kLoadsEarly) gather.load(0, plan, lane);
      // All four warps have written the values before, and have seen the end of the step before
      // that: its column tile is free.
      ptx::meet(1 + warpgroup, 128);
      ptx::wgmma_fence();
      float gcol[32];
      multiply_columns<Config>(gcol, tile, weight);
      ptx::wgmma_commit();
      if (step > 0) multiply_values(step - 1, grad_tile);
      ptx::wgmma_commit();  // of nothing, in the first step
      grad_tile = tile;
      // Of the steps before the last all warps of these samples have read the plans and left the
      // dot products: this one has filled a tile of grad since.
      if (step % 2 == 1 && step + Config::kPlanAhead < segment.steps &&
          has_turn(step + Config::kPlanAhead)) {
        const int32_t behind = place - 3;
        const int32_t at_once = behind < 0 ? behind + Config::kPlannedSteps : behind;
        if (step > 1) finish(step - 3, at_once);
        planner.plan(at_once);
      }
      gather.load(1, plan, lane);
      if (Config::kStages > 2 && more) fill(step + 1, ring[next]);
      gather.mix(0, plan, column, lane);
      ptx::wgmma_wait_but_one(gcol);
      uint32_t b[16];
      gather.pack(gcol, lane, b);
      gather.multiply(0, b, plan.dots[slice], lane);
      if (Config::kLoadsEarly && more) gather.load(0, ring[next], lane);
      if (Config::kStages == 2) {
        release_previous(step);
        if (more) fill(step + 1, ring[next]);
      }
      gather.mix(1, plan, column, lane);
      gather.multiply(1, b, plan.dots[slice], lane);
      if (Config::kStages > 2) release_previous(step);
      place = next;
    }
    ptx::async_proxy_fence();
    ptx::meet(1 + warpgroup, 128);
    ptx::wgmma_fence();
    multiply_values(segment.steps - 1, grad_tile);
    ptx::wgmma_commit();
    if (kSlices > 1) __syncthreads();
    for (int32_t step = max(segment.steps - 2 - Config::kPlanAhead, 0) / 2 * 2;
         step < segment.steps; step += 2) {
      if (has_turn(step)) finish(step, step % Config::kPlannedSteps);
    }
    ptx::wgmma_wait(sums);
    grad.release_last(lane);
    segment.store(params, warpgroup, thread, sums);
  }
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_owgrad_math(const OwgradParams& params, cudaStream_t stream) {
  return with_wgrad_tile<Math>(params.tile, [&](auto index) {
    const auto launch = [&](auto slices) {
      using Config = OwgradConfig<Math, index(), slices()>;
      return launch_kernel<dcn_owgrad_sm90_kernel<Config>>(params.ctas, Config::kThreads,
                                                           Config::kSharedBytes, stream, params);
    };
    if constexpr (kWgradTiles[index()].units == 2) {
      if (params.unit_slices == 2) return launch(std::integral_constant<int, 2>{});
    }
    return launch(std::integral_constant<int, 1>{});
  });
}

}  // namespace dcn
