// Atomic addition of a vector of sums in device memory: one instruction for up to four f32 on
// compute capability 9.0, where the L2 takes them at the rate of its bytes; one instruction a value
// elsewhere.
#pragma once

#include "sampling.cuh"

namespace dcn {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kVectorAtomics = true;
__device__ __forceinline__ void add_two(float* to, float a, float b) {
  atomicAdd(reinterpret_cast<float2*>(to), make_float2(a, b));
}
__device__ __forceinline__ void add_four(float* to, float a, float b, float c, float d) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(a, b, c, d));
}
#else
constexpr bool kVectorAtomics = false;
__device__ void add_two(float* to, float a, float b);
__device__ void add_four(float* to, float a, float b, float c, float d);
#endif

template <typename Coord, int kVec>
__device__ __forceinline__ void atomic_add(Coord* to, const Vector<Coord, kVec>& values) {
  constexpr bool kVectors = kVectorAtomics && sizeof(Coord) == 4;
  const auto& v = values.lane;
  if constexpr (kVectors && kVec % 4 == 0) {
#pragma unroll
    for (int j = 0; j < kVec; j += 4) add_four(to + j, v[j], v[j + 1], v[j + 2], v[j + 3]);
  } else if constexpr (kVectors && kVec == 2) {
    add_two(to, v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < kVec; ++j) atomicAdd(to + j, v[j]);
  }
}

}  // namespace dcn
