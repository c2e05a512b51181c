// The gather of owgrad: each corner of a sample is loaded once, mixed into the value that the
// weight gradient multiplies, and multiplied with the sample's gradient columns.
//
// Lane (g, q) of a warp loads vectors q and q + 4 of the four corners of rows g and g + 8, odd rows
// the second one first: two rows of a quad then read different halves of their lines, which the L1
// serves at once. Rows of A are two corners of eight samples, in the order in which they were
// loaded, and columns of B the samples' gradient columns, which lie in the accumulators as
// fragments of B do. Of each product the diagonal is kept, an eighth: half of the multiplications
// that ograd_mma_dots.cuh takes, for moves of the corners' registers.
#pragma once

#include <type_traits>

#include "../ptx_sm90.cuh"
#include "owgrad_samples.cuh"

namespace dcn {

template <class Math>
class OwgradGather {
 public:
  // `slice`: the unit's channels in the image.
  __device__ __forceinline__ OwgradGather(const void* slice, int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      from_[i] = static_cast<const uint8_t*>(slice) + vector(lane, i) * kVectorBytes;
      asm volatile("" : "+l"(from_[i]));  // one number, not a sum to be added up for each load
    }
  }

  // Vector of a slice that a lane loads first (i = 0) or second.
  static __device__ __forceinline__ int32_t vector(int lane, int i) {
    return lane % 4 + (lane & 4 ? 4 - 4 * i : 4 * i);
  }

  // Rows 8 * h + g.
  __device__ __forceinline__ void load(int h, const StepPlan<16>& plan, int lane) {
    const uint4 at = plan.corner[8 * h + lane / 4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      corner_[h][i][0] = vector_at(from_[i], at.x);
      corner_[h][i][1] = vector_at(from_[i], at.y);
      corner_[h][i][2] = vector_at(from_[i], at.z);
      corner_[h][i][3] = vector_at(from_[i], at.w);
    }
  }

  // `to`: where this lane's first vector of row g goes. The second one has another bit 6.
  __device__ __forceinline__ void mix(int h, const StepPlan<16>& plan, uint32_t to,
                                      int lane) const {
    const uint4 weight = plan.weight[8 * h + lane / 4];
    to += h * 8 * kSliceBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t value[4];
      Math::mix(corner_[h][i], weight, value);
      ptx::store_vector(to ^ (i * kSliceBytes / 2), value);
    }
    if (plan.outside >> (8 * h + lane / 4) & 1u) {
      ptx::store_vector(to, {0, 0, 0, 0});
      ptx::store_vector(to ^ (kSliceBytes / 2), {0, 0, 0, 0});
    }
  }

  // The gradient columns of a step as fragments of B: b[8 * h + 4 * i + 2 * k ...] for the
  // registers k and k + 2 of vector i.
  static __device__ __forceinline__ void pack(const float (&gcol)[32], int lane,
                                              uint32_t (&b)[16]) {
    const bool swapped = lane & 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int from = 4 * j + 2 * h, to = 8 * h + j % 2 * 2 + j / 2;
        const uint32_t first = Math::pack(gcol[from], gcol[from + 1]);
        const uint32_t second = Math::pack(gcol[16 + from], gcol[16 + from + 1]);
        b[to] = swapped ? second : first;
        b[4 + to] = swapped ? first : second;
      }
    }
  }

  // To `rows_dots`: of the 16 rows.
  __device__ __forceinline__ void multiply(int h, const uint32_t (&b)[16], float4* rows_dots,
                                           int lane) const {
    const int g = lane / 4;
    const bool second = g & 1;
    float dots[4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      float sums[4] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 &even = corner_[h][i][2 * pair], &odd = corner_[h][i][2 * pair + 1];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const uint32_t a[4] = {register_of(even, k), register_of(odd, k),
                                 register_of(even, k + 2), register_of(odd, k + 2)};
          Mma::mma(sums, a, b[8 * h + 4 * i + 2 * k], b[8 * h + 4 * i + 2 * k + 1]);
        }
      }
      // Columns 2 * q and 2 * q + 1 of rows g and g + 8.
      dots[2 * pair] = second ? sums[1] : sums[0];
      dots[2 * pair + 1] = second ? sums[3] : sums[2];
    }
    if (lane % 4 == g / 2) rows_dots[8 * h + g] = {dots[0], dots[1], dots[2], dots[3]};
  }

 private:
  using Mma = std::conditional_t<Math::kKind == FusedMath::kF16, ptx::MmaF16, ptx::MmaBF16>;

  const uint8_t* from_[2];
  uint4 corner_[2][2][4];
};

}  // namespace dcn
