// A step's multiplications on compute capability 9.0.
#pragma once

#include <type_traits>

#include "../ptx_sm90.cuh"
#include "fused_math.cuh"

namespace dcn {

template <class Math>
using WgmmaOf = std::conditional_t<
    Math::kKind == FusedMath::kF16, ptx::WgmmaF16,
    std::conditional_t<Math::kKind == FusedMath::kBF16, ptx::WgmmaBF16, ptx::WgmmaTF32>>;

// One step's multiplications: a[4 * k ...] with the k-th 32 bytes of the weight tile's rows.
template <class Math, int kSums>
__device__ __forceinline__ void multiply(float (&sums)[kSums], const uint32_t* a, uint32_t tile,
                                         bool add) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    WgmmaOf<Math>::mma(sums, a[4 * k], a[4 * k + 1], a[4 * k + 2], a[4 * k + 3],
                       ptx::tile_descriptor(tile) + 2 * k, add || k > 0);
  }
}
// With 3xTF32, a[16 ...] and the second half of the tile hold the trailing parts; small products
// are added first, and to nothing: sums are those of this step alone.
template <class Math, int kSums, int kRegisters>
__device__ __forceinline__ void multiply_step(float (&sums)[kSums], const uint32_t (&a)[kRegisters],
                                              uint32_t tile, uint32_t part_bytes) {
  if constexpr (weight_parts(Math::kKind) == 2) {
    multiply<Math>(sums, a + 16, tile, false);
    multiply<Math>(sums, a, tile + part_bytes, true);
  }
  multiply<Math>(sums, a, tile, true);
}

}  // namespace dcn
