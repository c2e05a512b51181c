// The weight gradient of f32 images, in tf32 or 3xTF32. See wgrad_sm90.cuh for the grid, the tiles
// and the segments.
//
// wgmma takes tf32 operands along gemm_k only, and here gemm_k is pixels. With mma.sync a lane's
// vector of four channels of a pixel is, as it was loaded, its part of two fragments of A: lane
// (g, q) gathers vector g of pixels q and q + 4, and of the products' rows g and g + 8 the first
// fragment holds channels 4 * g and 4 * g + 1, the second the two behind. So values meet the
// gradient without an exchange: a unit has two warps, for half of a step's pixels each, and all
// warps read one tile of the gradient [pixel][output channel]. A lane's vector of that tile, too,
// is its part of four fragments of B, of output channels 4 * g ... 4 * g + 3.
#pragma once

#include "fused_mma.cuh"
#include "ptx_sm90.cuh"
#include "wgrad_grad_ring.cuh"
#include "wgrad_launch.h"

namespace dcn {

template <class Math_, int kTile>
struct WgradF32Config : WgradConfig<Math_, kTile> {
  static constexpr int kRowParts = 2;  // a warp plans half of the step's pixels
  static constexpr int kSharedBytes = kGradStages * WgradF32Config::kGradTileBytes + kBarrierBytes +
                                      WgradF32Config::kWarps * WgradF32Config::kPlanBytes;
  // Vectors of pixels that a load of B meets at once lie in different banks.
  static __device__ __forceinline__ uint32_t place(int row, int vector) {
    return row * WgradF32Config::kChannels * 4 + (vector ^ row % 4 * 2) * kVectorBytes;
  }
};

// Lane (g, q)'s vectors of pixels q and q + 4 of eight.
template <class Math>
class PixelGather {
 public:
  __device__ __forceinline__ PixelGather(const void* slice, int32_t left, int lane)
      : slice_(static_cast<const uint8_t*>(slice) +
               (lane / 4 * kVectorBytes < left ? lane / 4 * kVectorBytes : 0)) {
    asm volatile("" : "+l"(slice_));
  }

  __device__ __forceinline__ void load(const StepPlan<32>& plan, int first, int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 at = plan.corner[first + 4 * i + lane % 4];
      corner_[i][0] = vector_at(slice_, at.x);
      corner_[i][1] = vector_at(slice_, at.y);
      corner_[i][2] = vector_at(slice_, at.z);
      corner_[i][3] = vector_at(slice_, at.w);
    }
  }
  __device__ __forceinline__ void mix(const StepPlan<32>& plan, int first, int lane,
                                      uint32_t (&value)[2][4]) const {
    const uint32_t outside = plan.outside >> (first + lane % 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Math::mix(corner_[i], plan.weight[first + 4 * i + lane % 4], value[i]);
#pragma unroll
      for (int c = 0; c < 4; ++c) value[i][c] = outside >> (4 * i) & 1u ? 0 : value[i][c];
    }
  }

 private:
  const uint8_t* slice_;
  uint4 corner_[2][4];
};

// A number for the tensor cores: leading part, and what that has left over.
struct SplitTf32 {
  uint32_t leading, trailing;
};
__device__ __forceinline__ SplitTf32 split_tf32(uint32_t v) {
  const uint32_t leading = round_to_tf32(__uint_as_float(v));
  // Infinity leaves nothing over, and not the NaN of its difference.
  const float left = leading == v ? 0.f : __uint_as_float(v) - __uint_as_float(leading);
  return {leading, __float_as_uint(left)};
}

// sums[j][e][m]: products of fragment m of A with output channels 32 * j + 4 * g + e.
template <class Config>
__device__ __forceinline__ void multiply_pixels(float (&sums)[Config::kChannels / 32][4][2][4],
                                                const uint32_t (&value)[2][4], const uint8_t* grad,
                                                int lane) {
  constexpr bool kSplit = Config::Math::kKind == FusedMath::k3xTf32;
  using Mma = MmaOf<typename Config::Math>;
  uint32_t a[2][4], a_trailing[2][4];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int m = i / 4, pixel = i / 2 % 2, late = i % 2;
    const uint32_t v = value[pixel][2 * m + late];
    const SplitTf32 part = kSplit ? split_tf32(v) : SplitTf32{v, 0};
    a[m][i % 4] = part.leading;
    a_trailing[m][i % 4] = part.trailing;
  }
#pragma unroll
  for (int j = 0; j < Config::kChannels / 32; ++j) {
    uint32_t b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 v =
          *reinterpret_cast<const uint4*>(grad + Config::place(4 * i + lane % 4, 8 * j + lane / 4));
      b[i][0] = v.x, b[i][1] = v.y, b[i][2] = v.z, b[i][3] = v.w;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (!kSplit) {
        const uint32_t b0 = round_to_tf32(__uint_as_float(b[0][e]));
        const uint32_t b1 = round_to_tf32(__uint_as_float(b[1][e]));
#pragma unroll
        for (int m = 0; m < 2; ++m) Mma::mma(sums[j][e][m], a[m], b0, b1);
      } else {
        // Tensor cores cut off what a sum cannot hold: these sums are short, small products first,
        // and added by additions that round.
        const SplitTf32 b0 = split_tf32(b[0][e]), b1 = split_tf32(b[1][e]);
        float part[2][4] = {};
#pragma unroll
        for (int m = 0; m < 2; ++m) Mma::mma(part[m], a_trailing[m], b0.leading, b1.leading);
#pragma unroll
        for (int m = 0; m < 2; ++m) Mma::mma(part[m], a[m], b0.trailing, b1.trailing);
#pragma unroll
        for (int m = 0; m < 2; ++m) Mma::mma(part[m], a[m], b0.leading, b1.leading);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[j][e][i / 4][i % 4] += part[i / 4][i % 4];
      }
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dcn_wgrad_f32_kernel(const __grid_constant__ WgradParams params) {
  using Math = typename Config::Math;
  using Plan = StepPlan<32>;
  constexpr int kGroups = Config::kPlanPixels / 8;  // of pixels, multiplied one after the other
  // Three products of one group already need all registers.
  constexpr int kUnrolled = Math::kKind == FusedMath::k3xTf32 ? 1 : kGroups;
  extern __shared__ uint8_t shared_memory[];
  const int thread = kept(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int half = warp % 2 * Config::kPlanPixels;  // of the step's pixels
  const uint32_t grad_tiles = ptx::shared_address(shared_memory);
  uint8_t* const barriers = shared_memory + kGradStages * Config::kGradTileBytes;
  Plan* const ring =
      reinterpret_cast<Plan*>(barriers + kBarrierBytes) + warp * Config::kPlannedSteps;
  GradRing<Config> grad(grad_tiles, ptx::shared_address(barriers), thread);
  ptx::launch_dependents();
  StepPlanner<Math, 32> planner(params, ring, half, lane);

  for (WgradSegments<Config> segment(params); segment.next(params);) {
    const WgradUnit at = segment.unit(params, warp / 2);
    float sums[Config::kChannels / 32][4][2][4];
#pragma unroll
    for (int i = 0; i < Config::kChannels; ++i) (&sums[0][0][0][0])[i] = 0.f;
    PixelGather<Math> gather(static_cast<const float*>(params.input) + at.channel,
                             at.left * static_cast<int32_t>(sizeof(float)), lane);
    const uint8_t* const grad_vectors = grad.first_vector(params, segment, lane);
    const auto plan_of = [&](int32_t step) -> const Plan& {
      return ring[step % Config::kPlannedSteps];
    };
    const auto fill = [&](int32_t step) {
      grad.fill(params, plan_of(step), grad_vectors, segment.pixels_left(params, step), warp, lane);
    };
    __syncwarp();  // the ring has been read
    planner.begin(at, segment.first);
    gather.load(plan_of(0), 0, lane);
    fill(0);

#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const bool more = step + 1 < segment.steps;
      if (more) {
        planner.plan((step + 1) % Config::kPlannedSteps);
        fill(step + 1);
      }
      const uint8_t* const tile = shared_memory + (grad.wait() - grad_tiles);
#pragma unroll kUnrolled
      for (int i = 0; i < kGroups; ++i) {
        uint32_t value[2][4];
        gather.mix(plan_of(step), 8 * i, lane, value);
        if (i + 1 < kGroups) {
          gather.load(plan_of(step), 8 * i + 8, lane);
        } else if (more) {
          gather.load(plan_of(step + 1), 0, lane);
        }
        multiply_pixels<Config>(sums, value, tile + (half + 8 * i) * Config::kChannels * 4, lane);
      }
      __syncwarp();
      grad.release_last(lane);
    }

    float4* const to = segment.sums(params, warp) + lane;
#pragma unroll
    for (int i = 0; i < Config::kChannels / 4; ++i) {
      const float(&sum)[4] = sums[i / 8][i / 2 % 4][i % 2];
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
