// The weight gradient in 16 bits on compute capability 9.0: an implicit GEMM over output pixels,
//
//   grad_weight[tap, c, k] = sum over pixels of value[pixel, tap, c] * grad[pixel, k]
//
// whose values, samples times mask, are gathered anew and never leave the multiprocessor.
//
//   grid      CTAs share the steps of all tiles evenly: each has a contiguous part, which is the
//   end
//             of a tile, some whole ones and the begin of another (segments)
//   CTA       a warpgroup for each unit of the tile (wgrad_tiles.h): 64 channels of one tap by all
//             output channels of the tile
//   step      64 output pixels. Each warp mixes the corners of 16 pixels into its warpgroup's
//   column
//             tile while the loads of the next step set out; the warpgroup then multiplies it by
//             the tile of the gradient, which all threads have copied for all warpgroups a step
//             earlier
//   epilogue  a segment leaves its f32 sums; wgrad_sum.cu adds them in the order of the segments
//
// Bound, like the forward pass, by the latency of gathers that hit the L1, so multiplications run
// beside the next step's gather. Warpgroups wait for one another a step late.
#pragma once

#include <type_traits>

#include "../ptx_sm90.cuh"
#include "wgrad_grad_ring.cuh"
#include "wgrad_launch.h"

namespace dcn {

template <class Math_, int kTile>
struct WgradSm90Config : WgradConfig<Math_, kTile> {
  using Base = WgradConfig<Math_, kTile>;
  static constexpr int kRowParts = 4;  // a warpgroup's warps plan its pixels
  static constexpr int kPanelBytes = kStepPixels * kSliceBytes;
  static constexpr int kColumnStages = 2;  // of a warpgroup: one is written, one multiplied
  static constexpr int kColumnBytes = kColumnStages * kPanelBytes;
  static constexpr int kSharedBytes = kTileAlignment + kGradStages * Base::kGradTileBytes +
                                      Base::kUnits * kColumnBytes + kBarrierBytes +
                                      Base::kWarps * Base::kPlanBytes;
  using Mma =
      std::conditional_t<Math_::kKind == FusedMath::kF16, ptx::PanelWgmmaF16, ptx::PanelWgmmaBF16>;
  // Panels of 64 channels, as wgmma reads them.
  static __device__ __forceinline__ uint32_t place(int row, int vector) {
    return vector / 8 * kPanelBytes + row * kSliceBytes + ((vector ^ row) % 8) * kVectorBytes;
  }
};

// A warp's 16 pixels x 128 bytes of channels: lane (sub, v) = (lane / 8, lane % 8) loads vector v
// of rows sub, 4 + sub, ...
template <class Math>
class ColumnGather {
 public:
  // `slice`: the unit's channels in the image; `left`: bytes of its block from there on. Vectors
  // that the block has not are never stored: any will do.
  __device__ __forceinline__ ColumnGather(const void* slice, int32_t left, int lane)
      : slice_(static_cast<const uint8_t*>(slice) +
               (lane % 8 * kVectorBytes < left ? lane % 8 * kVectorBytes : 0)) {
    asm volatile("" : "+l"(slice_));  // one number, not a sum to be added up for each load
  }

  __device__ __forceinline__ void load(const StepPlan<16>& plan, int lane) {
#pragma unroll
    for (int round = 0; round < 4; ++round) {
      const uint4 at = plan.corner[4 * round + lane / 8];
      corner_[round][0] = vector_at(slice_, at.x);
      corner_[round][1] = vector_at(slice_, at.y);
      corner_[round][2] = vector_at(slice_, at.z);
      corner_[round][3] = vector_at(slice_, at.w);
    }
  }
  // `to`: where this lane's vector of row `sub` goes; those of odd rounds have another bit 6.
  __device__ __forceinline__ void mix(const StepPlan<16>& plan, uint32_t to, int lane) const {
#pragma unroll
    for (int round = 0; round < 4; ++round) {
      uint32_t value[4];
      Math::mix(corner_[round], plan.weight[4 * round + lane / 8], value);
      ptx::store_vector(place(to, round), value);
    }
    const uint32_t outside = plan.outside;
    if (outside == 0) return;
#pragma unroll
    for (int round = 0; round < 4; ++round) {
      if (outside >> (4 * round + lane / 8) & 1u) ptx::store_vector(place(to, round), {0, 0, 0, 0});
    }
  }

 private:
  static __device__ __forceinline__ uint32_t place(uint32_t to, int round) {
    return (to + round * 4 * kSliceBytes) ^ (round % 2 * 4 * kVectorBytes);
  }

  const uint8_t* slice_;
  uint4 corner_[4][4];
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_wgrad_sm90_kernel(const __grid_constant__ WgradParams params) {
  using Math = typename Config::Math;
  using Plan = StepPlan<16>;
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t grad_tiles = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);
  const int thread = kept(threadIdx.x);
  const int lane = thread % 32, warp = kept(threadIdx.x / 32), warpgroup = warp / 4;
  const uint32_t columns = grad_tiles + kGradStages * Config::kGradTileBytes;
  const uint32_t barriers = columns + Config::kUnits * Config::kColumnBytes;
  Plan* const ring = reinterpret_cast<Plan*>(shared_memory + (barriers - start) + kBarrierBytes) +
                     warp * Config::kPlannedSteps;
  const uint32_t column_tile = columns + warpgroup * Config::kColumnBytes;
  const uint32_t own_column =
      column_tile + Config::place(warp % 4 * kWarpPixels + lane / 8, lane % 8);

  GradRing<Config> grad(grad_tiles, barriers, thread);
  StepPlanner<Math, 16, kStepPixels> planner(params, ring, warp % 4 * kWarpPixels, lane);

  for (WgradSegments<Config> segment(params); segment.next(params);) {
    const WgradUnit at = segment.unit(params, warpgroup);
    float sums[Config::kChannels / 2];
#pragma unroll
    for (float& sum : sums) sum = 0.f;
    ColumnGather<Math> gather(static_cast<const typename Math::Element*>(params.input) + at.channel,
                              at.left * 2, lane);
    const uint8_t* const grad_vectors = grad.first_vector(params, segment, lane);
    const auto plan_of = [&](int32_t step) -> const Plan& {
      return ring[step % Config::kPlannedSteps];
    };
    const auto fill = [&](int32_t step) {
      grad.fill(params, plan_of(step), grad_vectors, segment.pixels_left(params, step), warp, lane);
    };
    // The warps have read their rings and, in an odd last step, the first column tile.
    ptx::meet(1 + warpgroup, 128);
    planner.begin(at, segment.first);
    gather.load(plan_of(0), lane);
    fill(0);

#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const uint32_t stage = step % Config::kColumnStages * Config::kPanelBytes;
      gather.mix(plan_of(step), own_column + stage, lane);
      const uint32_t grad_tile = grad.wait();
      // For the values and the gradient. It waits for loads too, so new ones set out below.
      ptx::async_proxy_fence();
      if (step + 1 < segment.steps) {
        gather.load(plan_of(step + 1), lane);
        fill(step + 1);
        if (step % 2 == 0) planner.plan((step + 2) % Config::kPlannedSteps);
      }
      if (step > 0) {
        ptx::wgmma_wait(sums);
        grad.release_previous(lane);
      }
      // All four warps have written, and have seen the end of the step before: its column tile is
      // free.
      ptx::meet(1 + warpgroup, 128);
      ptx::wgmma_fence();
      const uint64_t a = ptx::panel_descriptor(column_tile + stage);
      const uint64_t b = ptx::panel_descriptor(grad_tile);
#pragma unroll
      for (int k = 0; k < kStepPixels / 16; ++k) {
        Config::Mma::mma(sums, a + k * kSliceBytes, b + k * kSliceBytes);  // 16 rows / 16 bytes
      }
      ptx::wgmma_commit();
    }
    ptx::wgmma_wait(sums);
    grad.release_last(lane);
    segment.store(params, warpgroup, thread, sums);
  }
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream) {
  return with_wgrad_tile<Math>(params.tile, [&](auto index) {
    using Config = WgradSm90Config<Math, index()>;
    return launch_wgrad_config<Config, dcn_wgrad_sm90_kernel<Config>>(params, stream);
  });
}

}  // namespace dcn
