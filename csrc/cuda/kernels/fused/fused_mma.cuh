// A step's multiplications with mma.sync, for compute capability 8.0 and newer.
//
// Half a step multiplies 64 bytes of gemm_k. The packed weight holds fragments: [8 channels of the
// tile][lane] vectors of 16 bytes, so that one load gives a lane its part of B for two
// multiplications, in the order in which the gather has loaded A.
#pragma once

#include <type_traits>

#include "../ptx_sm80.cuh"
#include "fused_math.cuh"

namespace dcn {

constexpr int kMmaChannels = 8;
constexpr int kMmaBytes = 32 * kVectorBytes;  // of 8 channels in half a step

template <class Math>
using MmaOf = std::conditional_t<
    Math::kKind == FusedMath::kF16, ptx::MmaF16,
    std::conditional_t<Math::kKind == FusedMath::kBF16, ptx::MmaBF16, ptx::MmaTF32>>;

// Two multiplications of 16 rows x 8 channels. `a` is a half's fragments.
template <class Math>
__device__ __forceinline__ void multiply_vector(float* sums, const uint32_t* a, uint4 b) {
  MmaOf<Math>::mma(sums, a, b.x, b.y);
  MmaOf<Math>::mma(sums, a + 4, b.z, b.w);
}

// sums[r][4 * j ...] += rows of tile r x channels 8 * j ... of the half. With 3xTF32, a[r][16 ...]
// and the second part of the weights hold what rounding has left over; tensor cores cut off what a
// sum cannot hold, so there each half is summed from zero, small products first, and added by
// rounding additions.
template <class Math, int kRowTiles, int kRegisters, int kSums>
__device__ __forceinline__ void multiply_half(float (&sums)[kRowTiles][kSums],
                                              const uint32_t (&a)[kRowTiles][kRegisters], int half,
                                              const uint8_t* weights, int lane) {
  constexpr int kBlocks = kSums / 4;
  const uint4* const vectors = reinterpret_cast<const uint4*>(weights) + lane;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    const uint4 leading = vectors[j * 32];
    if constexpr (weight_parts(Math::kKind) == 1) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        multiply_vector<Math>(&sums[r][4 * j], &a[r][8 * half], leading);
      }
    } else {
      const uint4 trailing = vectors[(kBlocks + j) * 32];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        float part[4] = {};
        multiply_vector<Math>(part, &a[r][16 + 8 * half], leading);
        multiply_vector<Math>(part, &a[r][8 * half], trailing);
        multiply_vector<Math>(part, &a[r][8 * half], leading);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][4 * j + i] += part[i];
      }
    }
  }
}

}  // namespace dcn
