// A lane's loads of A: which vectors of a slice it gathers, and how their values become fragments.
#pragma once

#include "fused_samples.cuh"

namespace dcn {

__device__ __forceinline__ void load_corners(const uint8_t* base, uint4 offset,
                                             uint4 (&corner)[4]) {
  corner[0] = __ldg(reinterpret_cast<const uint4*>(base + offset.x));
  corner[1] = __ldg(reinterpret_cast<const uint4*>(base + offset.y));
  corner[2] = __ldg(reinterpret_cast<const uint4*>(base + offset.z));
  corner[3] = __ldg(reinterpret_cast<const uint4*>(base + offset.w));
}

// value[2 * row half + vector] to fragment order; a lane of an odd row has its vectors swapped.
// With 3xTF32 the values are split in leading parts and, from a[16] on, trailing ones.
template <class Math, bool kKeepsInfinity = true, int kRegisters>
__device__ __forceinline__ void to_fragments(const uint32_t (&value)[4][4], bool odd,
                                             uint32_t (&a)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int half = i / 8, k = i / 4 % 2, row = i % 2, late = i / 2 % 2;
    const uint32_t v =
        odd ? value[2 * row + 1 - half][2 * k + late] : value[2 * row + half][2 * k + late];
    if constexpr (weight_parts(Math::kKind) == 1) {
      a[i] = v;
    } else {
      split_tf32<kKeepsInfinity>(v, a[i], a[16 + i]);
    }
  }
}

// The two vectors of a lane in a slice, in the order in which it loads them: bytes from the slice's
// begin. The last slice of a block may be short; a lane without a vector reads the first one of the
// slice instead, and clears its value.
struct LaneVectors {
  static __device__ __forceinline__ int32_t byte(int lane, int i) {
    const int32_t first = lane % 4 * kVectorBytes + (lane & 4) * (kSliceBytes / 2 / 4);
    return i == 0 ? first : first ^ (kSliceBytes / 2);
  }

  // The slice begins at `slice`, with `left` bytes of the block.
  __device__ __forceinline__ void locate(const uint8_t* slice, int32_t left, int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) at[i] = slice + byte(lane, i);
    clip(left, lane);
  }
  __device__ __forceinline__ void next(int32_t left, int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) at[i] += kSliceBytes;
    if (left < kSliceBytes) clip(left, unkept(lane));
  }
  __device__ __forceinline__ void clip(int32_t left, int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (byte(lane, i) >= left) at[i] -= byte(lane, i);
    }
  }

  const uint8_t* at[2];
};

}  // namespace dcn
