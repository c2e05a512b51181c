// The weight gradient of f32 images, in tf32 or 3xTF32. See wgrad_sm90.cuh for the grid, the tiles
// and the segments.
//
//   gather    warps that fill rings of stages with values, transposed, and the gradient
//             (wgrad_f32_gather.cuh)
//   multiply  1 or 2 warpgroups: rows are output channels, columns channels of units, gemm_k
//             pixels. A is loaded from the gradient's stage as fragments, rounded or split there
//   step      32 output pixels
//
// Warps that gather wait for nobody but a stage: a warpgroup that multiplied what its warps gather
// would wait, group by group of pixels, for the slowest of them.
#pragma once

#include "../fused/fused_wgmma.cuh"
#include "wgrad_f32_gather.cuh"
#include "wgrad_launch.h"

namespace dcn {

// The sums of a segment, by a warpgroup.
template <class Config>
class WgradF32Products {
  using Math = typename Config::Math;
  static constexpr int kBlocks = Config::kBlocks, kAllSums = Config::kColumns / 2;
  static constexpr int kSums = kAllSums / Config::kColumnParts;

 public:
  __device__ __forceinline__ WgradF32Products() {
    const int thread = of_products(), warp = thread / 32 % 4, g = thread % 32 / 4, q = thread % 4;
    fragments_ = (2 * first_block() + warp / 2) * Config::kPanelBytes + q * kSliceBytes +
                 ((warp % 2 * 4 + g / 2) ^ 2 * q) * kVectorBytes + g % 2 * 8;
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kBlocks * kAllSums; ++i) {
      if constexpr (Config::kExactSums) {
        totals_[i / kAllSums][i % kAllSums] = 0.f;
      } else {
        sums_[i / kSums][i % kSums] = 0.f;  // of all parts of the columns
      }
    }
  }

  // A part of a step's pixels: its rows of the gradient's tile become fragments of A.
  __device__ __forceinline__ void load(uint32_t grad, int part) {
    const uint32_t at = grad + fragments_;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int k = 0; k < kQuads; ++k) {  // four pixels each
        const uint2 pair = ptx::load_pair(at + 2 * i * Config::kPanelBytes +
                                          (kQuads * part + k) * 4 * kSliceBytes);
        take(pair.x, i, 2 * k);
        take(pair.y, i, 2 * k + 1);
      }
    }
  }

  // Tensor cores cut off what a sum cannot hold: with 3xTF32 they sum up a part only, small
  // products first, and those are added by additions that round.
  __device__ __forceinline__ void multiply(uint32_t values, int part) {
    const uint64_t b = ptx::tile_descriptor(values) + kQuads * part;
#pragma unroll
    for (int c = 0; c < Config::kColumnParts; ++c) {
      multiply_columns(b + c * (Config::kColumns / Config::kColumnParts * kSliceBytes / 16),
                       Config::kExactSums ? 0 : c * kBlocks);
      if constexpr (Config::kExactSums) {
#pragma unroll
        for (int i = 0; i < kBlocks * kSums; ++i) {
          totals_[i / kSums][c * kSums + i % kSums] += sums_[i / kSums][i % kSums];
        }
      }
    }
  }

  // As fragments of 16 output channels x 8 columns, in the order of wgrad_sum.cu.
  __device__ __forceinline__ void store(const WgradParams& params,
                                        const WgradSegments<Config>& segment) const {
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const int thread = of_products(), lane = thread % 32;
      const int rows = 4 * (first_block() + i) + thread / 32 % 4;
#pragma unroll
      for (int j = 0; j < kAllSums / 4; ++j) {
        const float* sum;
        if constexpr (Config::kExactSums) {
          sum = totals_[i] + 4 * j;
        } else {
          sum = sums_[4 * j / kSums * kBlocks + i] + 4 * j % kSums;
        }
        segment.sums(params, j / 4)[(rows * 4 + j % 4) * 32 + lane] = {sum[0], sum[1], sum[2],
                                                                       sum[3]};
      }
    }
  }

 private:
  static constexpr int kQuads = Config::kFragments / 2;  // of pixels
  static constexpr int kTrailing = Config::kFragments;   // where those of trailing parts begin

  __device__ __forceinline__ void take(uint32_t value, int block, int at) {
    if constexpr (Config::kParts == 2) {
      split_tf32<false>(value, a_[block][at], a_[block][kTrailing + at]);
    } else {
      a_[block][at] = Math::rounded(value);
    }
  }
  // `first`: of the sums.
  __device__ __forceinline__ void multiply_columns(uint64_t b, int first) {
    ptx::wgmma_fence();
    if constexpr (Config::kExactSums) {
      multiply(first, kTrailing, b, false);
      multiply(first, 0, b + Config::kValueBytes / 16, true);
    }
    multiply(first, 0, b, true);
    ptx::wgmma_commit();
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) ptx::wgmma_wait(sums_[first + i], a_[i]);
  }
  __device__ __forceinline__ void multiply(int first, int from, uint64_t b, bool add) {
#pragma unroll
    for (int k = 0; k < kQuads / 2; ++k) {
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        const uint32_t* a = a_[i] + from + 4 * k;
        ptx::WgmmaTF32::mma(sums_[first + i], a[0], a[1], a[2], a[3], b + 2 * k, add || k > 0);
      }
    }
  }

  // The thread's number among those that multiply: found again rather than kept, as what follows.
  static __device__ __forceinline__ int of_products() {
    return unkept(threadIdx.x) - 32 * Config::kGatherWarps;
  }
  static __device__ __forceinline__ int first_block() { return of_products() / 128 * kBlocks; }

  uint32_t fragments_;  // where this lane's are, in a stage of the gradient
  uint32_t a_[kBlocks][Config::kFragments * Config::kParts];
  float sums_[Config::kExactSums ? kBlocks : kBlocks * Config::kColumnParts][kSums];
  float totals_[kBlocks][Config::kExactSums ? kAllSums : 1];
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_wgrad_f32_kernel(const __grid_constant__ WgradParams params) {
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const uint32_t stages = (start + kTileAlignment - 1) & ~(kTileAlignment - 1u);
  const int lane = threadIdx.x % 32, warp = kept(threadIdx.x / 32);
  WgradF32Rings<Config> rings(stages);
  if (threadIdx.x == 0) rings.init();
  __syncthreads();

  if (warp < Config::kGatherWarps) {
    ptx::set_registers<Config::kFirstRegisters, Config::kGatherRegisters>();
    if (warp >= Config::kWarps) return;
    auto* const plans = reinterpret_cast<StepPlan<Config::kPlanPixels>*>(
        shared_memory + (rings.barriers(stages) - start) + kBarrierBytes);
    WgradF32Gather<Config> gather(params, plans, stages, warp, lane);
    for (WgradSegments<Config> segment(params); segment.next(params);) gather.fill(segment);
    return;
  }

  ptx::set_registers<Config::kFirstRegisters, Config::kMultiplyRegisters>();
  WgradF32Products<Config> products;
  for (WgradSegments<Config> segment(params); segment.next(params);) {
    products.clear();
#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      rings.grad.wait_full();
#pragma unroll
      for (int part = 0; part < Config::kStepParts; ++part) {
        products.load(rings.grad_tile(), part);
        if (part == 0) {
          rings.values.wait_full();
          // For what other warps stored before they arrived. They have loads on their way, for
          // which a fence of theirs would wait.
          ptx::async_proxy_fence();
        }
        if (part + 1 == Config::kStepParts) {
          __syncwarp();
          if (lane == 0) ptx::barrier_arrive(rings.grad.empty());
          rings.grad.advance();
        }
        products.multiply(rings.value_tile(), part);
      }
      if (lane == 0) ptx::barrier_arrive(rings.values.empty());
      rings.values.advance();
    }
    products.store(params, segment);
  }
}

template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream) {
  return with_wgrad_tile<Math>(params.tile, [&](auto index) {
    if (params.unit_slices == 2) {
      using Config = WgradF32Config<Math, index(), 2>;
      return launch_wgrad_config<Config, dcn_wgrad_f32_kernel<Config>>(params, stream);
    }
    using Config = WgradF32Config<Math, index(), 1>;
    return launch_wgrad_config<Config, dcn_wgrad_f32_kernel<Config>>(params, stream);
  });
}

}  // namespace dcn
