// The weight gradient of f32 images, in tf32 or 3xTF32. See wgrad_sm90.cuh for the grid, the tiles
// and the segments.
//
//   warp      gathers a unit of its own: 32 channels of one tap. A lane's vector of four channels
//             of a pixel is, as it was loaded, its part of two fragments of A: lane (g, q) gathers
//             vector g of pixels q and q + 4, and of the products' rows g and g + 8 the first
//             fragment holds channels 4 * g and 4 * g + 1, the second the two behind. So values
//             meet the gradient without an exchange, and a warpgroup multiplies four units
//   writers   a warpgroup more, which plans samples and writes the gradient's tiles for all, some
//             steps ahead (wgrad_step_writer.cuh)
//   step      32 output pixels, in groups of eight: while one is multiplied the next is mixed, and
//             the loads of the one behind are on their way
#pragma once

#include "fused_wgmma.cuh"
#include "wgrad_launch.h"
#include "wgrad_step_writer.cuh"

namespace dcn {

template <class Math_, int kTile>
struct WgradF32Config : WgradConfig<Math_, kTile> {
  using Base = WgradConfig<Math_, kTile>;
  static constexpr bool kExactSums = Math_::kKind == FusedMath::k3xTf32;
  static constexpr int kThreads = Base::kThreads + 128;
  static constexpr int kCtas = ctas_of(Base::tile);
  // Of a thread that writes, and of one that multiplies: together what the CTA begins with.
  static constexpr int kWarpgroups = kThreads / 128;
  static constexpr int kFirstRegisters = 512 / kCtas / kWarpgroups / 8 * 8;
  static constexpr int kWriterRegisters = Base::kWarps == 8 ? 72 : 56;
  static constexpr int kRegisters =
      (kFirstRegisters * kWarpgroups - kWriterRegisters) / (kWarpgroups - 1) / 8 * 8;
  static constexpr int kSharedBytes = kTileAlignment + StepRing<WgradF32Config>::kBytes;
};

// Lane (g, q)'s vectors of pixels q and q + 4 of a group of eight.
template <class Math>
class PixelGather {
 public:
  __device__ __forceinline__ PixelGather(const void* slice, int32_t left, int lane)
      : slice_(static_cast<const uint8_t*>(slice) +
               (lane / 4 * kVectorBytes < left ? lane / 4 * kVectorBytes : 0)) {
    asm volatile("" : "+l"(slice_));
  }

  // `corner`, `weight`: the plan's, of the group's pixel q.
  __device__ __forceinline__ void load(const uint4* corner) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 at = corner[4 * i];
      corner_[i][0] = vector_at(slice_, at.x);
      corner_[i][1] = vector_at(slice_, at.y);
      corner_[i][2] = vector_at(slice_, at.z);
      corner_[i][3] = vector_at(slice_, at.w);
    }
  }
  // `outside`: which of the group's pixels are.
  __device__ __forceinline__ void mix(const uint4* weight, uint32_t outside, int lane,
                                      uint32_t (&value)[2][4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) Math::mix(corner_[i], weight[4 * i], value[i]);
    if (outside == 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool clear = outside >> (4 * i + lane % 4) & 1u;
#pragma unroll
      for (int c = 0; c < 4; ++c) value[i][c] = clear ? 0 : value[i][c];
    }
  }

 private:
  const uint8_t* slice_;
  uint4 corner_[2][4];
};

// Two fragments of A, of rows g and g + 8; with 3xTF32 the trailing parts behind them.
template <class Math, int kRegisters>
__device__ __forceinline__ void to_fragments(const uint32_t (&value)[2][4],
                                             uint32_t (&a)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t v = value[i / 2 % 2][i / 4 * 2 + i % 2];
    if constexpr (kRegisters == 16) {
      split_tf32(v, a[i], a[8 + i]);
    } else {
      a[i] = v;
    }
  }
}

template <int kSums>
__device__ __forceinline__ void multiply_fragment(float (&sums)[kSums], const uint32_t* a,
                                                  uint64_t b, bool add) {
  ptx::WgmmaTF32::mma(sums, a[0], a[1], a[2], a[3], b, add);
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kCtas)
    dcn_wgrad_f32_kernel(const __grid_constant__ WgradParams params) {
  using Math = typename Config::Math;
  using Ring = StepRing<Config>;
  using Plan = typename Ring::Plan;
  constexpr int kGroups = Config::kStepPixels / 8;
  constexpr int kSums = Config::kChannels / 2;
  constexpr int kFragments = 8 * Ring::kParts;
  extern __shared__ uint8_t shared_memory[];
  const uint32_t start = ptx::shared_address(shared_memory);
  const int thread = kept(threadIdx.x), lane = thread % 32, warp = kept(threadIdx.x / 32);
  const Ring ring(shared_memory + (-start & (kTileAlignment - 1)));
  if (thread == 0) ring.init();
  __syncthreads();
  ptx::launch_dependents();
  if (warp >= Config::kWarps) {
    ptx::give_up_registers<Config::kWriterRegisters>();
    StepWriter<Config> writer(params, ring, warp % 4, lane);
    for (WgradSegments<Config> segment(params); segment.next(params);) writer.write(segment);
    return;
  }
  ptx::take_registers<Config::kRegisters>();
  StepStage stage;
  uint32_t last_stage = 0;  // of the step before
  // The plan of this warp, once the stage is full.
  const Plan* plan = nullptr;
  const auto wait_for_plan = [&] {
    ptx::barrier_wait(ring.full(stage.index), stage.phase);
    plan = ring.plans + stage.index * Config::kUnits + warp;
  };
  // This warp has done with a stage.
  const auto release = [&](uint32_t index) {
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(ring.empty(index));
  };

  for (WgradSegments<Config> segment(params); segment.next(params);) {
    const WgradUnit at = segment.unit(params, warp);
    float sums[2][kSums], totals[2][Config::kExactSums ? kSums : 1];
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) {
      sums[i / kSums][i % kSums] = 0.f;
      if constexpr (Config::kExactSums) totals[i / kSums][i % kSums] = 0.f;
    }
    // Tensor cores cut off what a sum cannot hold: with 3xTF32 they sum up a step only, and steps
    // are added by additions that round.
    const auto add_to_totals = [&] {
      if constexpr (Config::kExactSums) {
#pragma unroll
        for (int i = 0; i < 2 * kSums; ++i) totals[i / kSums][i % kSums] += sums[i / kSums][i % kSums];
      }
    };
    uint32_t a[kFragments] = {};
    const auto wait_for_sums = [&] {
      ptx::wgmma_wait(sums[0], a);
      ptx::wgmma_wait(sums[1], a);
    };
    PixelGather<Math> gather(static_cast<const float*>(params.input) + at.channel, at.left * 4,
                             lane);
    wait_for_plan();
    gather.load(plan->corner + lane % 4);

#pragma unroll 1
    for (int32_t left = segment.steps; left > 0; --left) {
      const uint32_t this_stage = stage.index;
      uint64_t b = ptx::tile_descriptor(ring.tiles + this_stage * Ring::kTileBytes);
      const uint4* pixel = plan->corner + lane % 4;
      uint32_t outside = plan->outside;
      // A turn ends with multiplications: ptxas then puts nothing before them that waits for loads,
      // as it does where groups are unrolled.
#pragma unroll 1
      for (int group = 0; group < kGroups; ++group) {
        uint32_t value[2][4];
        gather.mix(pixel + Config::kStepPixels, outside & 0xff, lane, value);
        pixel += 8;
        outside >>= 8;
        if (group + 1 < kGroups) {
          gather.load(pixel);
        } else {
          stage.advance();
          if (left > 1) {
            wait_for_plan();
            gather.load(plan->corner + lane % 4);
          }
        }
        wait_for_sums();
        const bool anew = Config::kExactSums && group == 0;
        if (group == 0) {
          add_to_totals();
          if (left < segment.steps) release(last_stage);
        }
        to_fragments<Math>(value, a);
        ptx::wgmma_fence();
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t* const fragment = a + 4 * m;
          if constexpr (Ring::kParts == 2) {  // small products first
            multiply_fragment(sums[m], fragment + 8, b, !anew);
            multiply_fragment(sums[m], fragment, b + Ring::kPartBytes / 16, true);
          }
          multiply_fragment(sums[m], fragment, b, Ring::kParts == 2 || !anew);
        }
        ptx::wgmma_commit();
        b += 2;  // 32 bytes along the rows
      }
      last_stage = this_stage;
    }
    wait_for_sums();
    release(last_stage);
    add_to_totals();

    float4* const to = segment.sums(params, warp) + lane;
#pragma unroll
    for (int i = 0; i < kSums / 2; ++i) {
      const float* const sum = (Config::kExactSums ? totals[i % 2] : sums[i % 2]) + i / 2 * 4;
      to[i * 32] = {sum[0], sum[1], sum[2], sum[3]};
    }
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
