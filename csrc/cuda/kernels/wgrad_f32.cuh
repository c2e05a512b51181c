// The weight gradient of f32 images, in tf32 or 3xTF32. See wgrad_sm90.cuh for the grid, the tiles
// and the segments.
//
//   gather    8 warps fill a ring of stages with values and gradient, transposed
//             (wgrad_f32_gather.cuh)
//   multiply  2 warpgroups, each half of the units by all output channels of the tile
//   step      32 output pixels
//
// Warps that gather wait for nobody but a stage: a warpgroup that multiplied what its warps gather
// would wait, group by group of pixels, for the slowest of them.
#pragma once

#include "wgrad_f32_gather.cuh"
#include "wgrad_launch.h"

namespace dcn {

// The sums of a segment, by a warpgroup.
template <class Config>
class WgradF32Products {
  // One multiplication of 256 columns takes more registers than ptxas gives a thread of 512.
  static constexpr int kColumns = Config::kChannels == 256 ? 128 : Config::kChannels;
  static constexpr int kParts = Config::kChannels / kColumns;  // of the columns
  static constexpr int kBlocks = Config::kBlocks, kSums = kColumns / 2;

 public:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kBlocks * kParts * kSums; ++i) {
      sums_[i / kSums][i % kSums] = 0.f;
      if constexpr (Config::kExactSums) totals_[i / kSums][i % kSums] = 0.f;
    }
  }

  // `values`: this warpgroup's rows. Tensor cores cut off what a sum cannot hold: with 3xTF32 they
  // sum up a step only, small products first, and steps are added by additions that round.
  __device__ __forceinline__ void multiply_step(uint32_t values, uint32_t grad) {
    const uint64_t a = ptx::tile_descriptor(values), b = ptx::tile_descriptor(grad);
    constexpr uint64_t kTrailingA = Config::kValueBytes / 16, kTrailingB = Config::kGradBytes / 16;
    ptx::wgmma_fence();
    if constexpr (Config::kExactSums) {
      multiply(a + kTrailingA, b, false);
      multiply(a, b + kTrailingB, true);
    }
    multiply(a, b, true);
    ptx::wgmma_commit();
#pragma unroll
    for (int i = 0; i < kBlocks * kParts; ++i) ptx::wgmma_wait(sums_[i]);
  }
  __device__ __forceinline__ void add_step() {
    if constexpr (Config::kExactSums) {
#pragma unroll
      for (int i = 0; i < kBlocks * kParts * kSums; ++i) {
        totals_[i / kSums][i % kSums] += sums_[i / kSums][i % kSums];
      }
    }
  }

  // A block has two units; of each, a warp has one of the two fragments of wgrad_sum.cu.
  __device__ __forceinline__ void store(const WgradParams& params,
                                        const WgradSegments<Config>& segment, int first_block,
                                        int warp, int lane) const {
#pragma unroll
    for (int i = 0; i < kBlocks * kParts; ++i) {
      const int unit = (first_block + i / kParts) * 2 + warp / 2;
      float4* const to =
          segment.sums(params, unit) + (i % kParts * (kSums / 2) + warp % 2) * 32 + lane;
#pragma unroll
      for (int j = 0; j < kSums / 4; ++j) {
        const float* sum = sums_[i] + 4 * j;
        if constexpr (Config::kExactSums) sum = totals_[i] + 4 * j;
        to[j * 64] = {sum[0], sum[1], sum[2], sum[3]};
      }
    }
  }

 private:
  __device__ __forceinline__ void multiply(uint64_t a, uint64_t b, bool add) {
#pragma unroll
    for (int k = 0; k < Config::kStepPixels / 8; ++k) {
#pragma unroll
      for (int i = 0; i < kBlocks * kParts; ++i) {
        ptx::TileWgmmaTF32::mma(sums_[i], a + i / kParts * (64 * kSliceBytes / 16) + 2 * k,
                                b + i % kParts * (kColumns * kSliceBytes / 16) + 2 * k,
                                add || k > 0);
      }
    }
  }

  float sums_[kBlocks * kParts][kSums];
  float totals_[kBlocks * kParts][Config::kExactSums ? kSums : 1];
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_wgrad_f32_kernel(const __grid_constant__ WgradParams params) {
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t stages = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);
  const int lane = threadIdx.x % 32, warp = kept(threadIdx.x / 32);
  if (threadIdx.x == 0) WgradF32Ring<Config>::init(stages);
  __syncthreads();

  if (warp < Config::kWarps) {
    ptx::give_up_registers<Config::kGatherRegisters>();
    auto* const plans = reinterpret_cast<StepPlan<Config::kPlanPixels>*>(
        shared_memory + (stages - start) + Config::kStages * Config::kStageBytes + kBarrierBytes);
    WgradF32Gather<Config> gather(params, plans, stages, warp, lane);
    for (WgradSegments<Config> segment(params); segment.next(params);) gather.fill(segment);
    return;
  }

  ptx::take_registers<Config::kMultiplyRegisters>();
  const int first_block = (warp - Config::kWarps) / 4 * Config::kBlocks;
  WgradF32Ring<Config> ring(stages);
  WgradF32Products<Config> products;
  for (WgradSegments<Config> segment(params); segment.next(params);) {
    products.clear();
#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      ring.wait_full();
      // For what other warps stored before they arrived. They have loads on their way, for which a
      // fence of theirs would wait.
      ptx::async_proxy_fence();
      products.multiply_step(ring.values() + first_block * (64 * kSliceBytes), ring.grad());
      ring.leave_empty(lane);
      products.add_step();
    }
    products.store(params, segment, first_block, warp % 4, lane);
  }
}

template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream) {
  return with_wgrad_tile<Math>(params.tile, [&](auto index) {
    using Config = WgradF32Config<Math, index()>;
    return launch_wgrad_config<Config, dcn_wgrad_f32_kernel<Config>>(params, stream);
  });
}

}  // namespace dcn
