// The arithmetic of the fused kernels per FusedMath: how four corners are mixed into a value, and
// how values and sums are held. A vector is 16 bytes of channels, a register of a fragment 4.
//
// 16-bit values are mixed in packed 16-bit arithmetic, with the products of interpolation weight
// and mask rounded once: on integer positions the weights are 0 and 1, so the value is exact.
// Coordinates and sums over gemm_k are f32 in each.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../../../fprop_tiles.h"
#include "../ptx_sm80.cuh"

namespace dcn {

__device__ __forceinline__ uint32_t bits(__half2 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ uint32_t bits(__nv_bfloat162 v) {
  return *reinterpret_cast<uint32_t*>(&v);
}

template <typename Pair>
__device__ __forceinline__ Pair pair_of(uint32_t bits) {
  return *reinterpret_cast<const Pair*>(&bits);
}

__device__ __forceinline__ uint32_t register_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Mixes one vector of four corners, two channels at a time.
template <typename Pair>
__device__ __forceinline__ void mix_pairs(const uint4 (&corner)[4], uint4 weight,
                                          uint32_t (&value)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Pair sum = __hmul2(pair_of<Pair>(weight.x), pair_of<Pair>(register_of(corner[0], i)));
    sum = __hfma2(pair_of<Pair>(weight.y), pair_of<Pair>(register_of(corner[1], i)), sum);
    sum = __hfma2(pair_of<Pair>(weight.z), pair_of<Pair>(register_of(corner[2], i)), sum);
    sum = __hfma2(pair_of<Pair>(weight.w), pair_of<Pair>(register_of(corner[3], i)), sum);
    value[i] = bits(sum);
  }
}

// How values of a kind are mixed (`mix`, with `weights` in the form that it takes), and how sums
// are rounded (`pack`), loaded bits widened (`wide`) and weights prepared (`split`).
struct MathF16 {
  using Element = __half;
  static constexpr FusedMath kKind = FusedMath::kF16;

  static __device__ __forceinline__ uint4 weights(float4 w) {
    return {bits(__float2half2_rn(w.x)), bits(__float2half2_rn(w.y)), bits(__float2half2_rn(w.z)),
            bits(__float2half2_rn(w.w))};
  }
  static __device__ __forceinline__ void mix(const uint4 (&corner)[4], uint4 weight,
                                             uint32_t (&value)[4]) {
    mix_pairs<__half2>(corner, weight, value);
  }
  static __device__ __forceinline__ uint32_t rounded(uint32_t value) { return value; }
  static __device__ __forceinline__ uint32_t multiply(uint32_t a, uint32_t b) {
    return bits(__hmul2(pair_of<__half2>(a), pair_of<__half2>(b)));
  }
  static __device__ __forceinline__ uint32_t pack(float a, float b) {
    return bits(__floats2half2_rn(a, b));
  }
  static __device__ __forceinline__ float wide(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
  }
  static __device__ __forceinline__ float2 wide_pair(uint32_t bits) {
    return __half22float2(pair_of<__half2>(bits));
  }
  template <typename Vector>
  static __device__ __forceinline__ void split(Element weight, Vector (&part)[1], int i) {
    part[0].lane[i] = weight;
  }
};

struct MathBF16 {
  using Element = __nv_bfloat16;
  static constexpr FusedMath kKind = FusedMath::kBF16;

  static __device__ __forceinline__ uint4 weights(float4 w) {
    return {bits(__float2bfloat162_rn(w.x)), bits(__float2bfloat162_rn(w.y)),
            bits(__float2bfloat162_rn(w.z)), bits(__float2bfloat162_rn(w.w))};
  }
  static __device__ __forceinline__ void mix(const uint4 (&corner)[4], uint4 weight,
                                             uint32_t (&value)[4]) {
    mix_pairs<__nv_bfloat162>(corner, weight, value);
  }
  static __device__ __forceinline__ uint32_t rounded(uint32_t value) { return value; }
  static __device__ __forceinline__ uint32_t multiply(uint32_t a, uint32_t b) {
    return bits(__hmul2(pair_of<__nv_bfloat162>(a), pair_of<__nv_bfloat162>(b)));
  }
  static __device__ __forceinline__ uint32_t pack(float a, float b) {
    return bits(__floats2bfloat162_rn(a, b));
  }
  static __device__ __forceinline__ float wide(uint32_t bits) {
    return __uint_as_float(bits << 16);
  }
  static __device__ __forceinline__ float2 wide_pair(uint32_t bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  }
  template <typename Vector>
  static __device__ __forceinline__ void split(Element weight, Vector (&part)[1], int i) {
    part[0].lane[i] = weight;
  }
};

using ptx::round_to_tf32;

// Tensor cores cut off the last 13 bits of an operand. What was multiplied by this number comes out
// as good as rounded, without a bias: it gains a third to two thirds of a unit of tf32's last
// place, so that a value of tf32 stays what it is. cvt.rna takes three instructions.
constexpr float kTf32Rounding = 1.f + 0.35f / 1024;
__device__ __forceinline__ uint32_t rounded_when_cut(float value) {
  return __float_as_uint(value * kTf32Rounding);
}

// Bits of an f32 value to its leading part, rounded, and the rest, which tensor cores cut off: half
// of the time above zero, half below. An infinity leaves nothing over or, where it need not be
// kept, NaN.
template <bool kKeepsInfinity = true>
__device__ __forceinline__ void split_tf32(uint32_t value, uint32_t& leading, uint32_t& trailing) {
  leading = (value + 0x1000u) & ~0x1fffu;  // that of a NaN may be 0
  const uint32_t left = __float_as_uint(__uint_as_float(value) - __uint_as_float(leading));
  trailing = kKeepsInfinity && leading == value ? 0 : left;
}

// A value that is split where it is used lies in memory moved away from zero by half a unit of
// tf32's last place: what tensor cores cut off leaves its leading part, rounded. An infinity leaves
// NaN over.
constexpr uint32_t kHalfOfTf32 = 0x1000u;
__device__ __forceinline__ uint32_t to_be_split(float value) {
  return __float_as_uint(value) + kHalfOfTf32;
}
__device__ __forceinline__ uint32_t trailing_of(uint32_t moved) {
  const float leading = __uint_as_float(moved & ~0x1fffu);
  return __float_as_uint(__uint_as_float(moved - kHalfOfTf32) - leading);
}

// f32 values; 3xTF32 splits them later, and needs them unrounded. For tf32 weights round.
template <FusedMath kKind_>
struct MathF32 {
  using Element = float;
  static constexpr FusedMath kKind = kKind_;

  static __device__ __forceinline__ uint4 weights(float4 w) {
    return {bits(w.x), bits(w.y), bits(w.z), bits(w.w)};
  }
  static __device__ __forceinline__ void mix(const uint4 (&corner)[4], uint4 weight,
                                             uint32_t (&value)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sum = __uint_as_float(weight.x) * __uint_as_float(register_of(corner[0], i));
      sum = fmaf(__uint_as_float(weight.y), __uint_as_float(register_of(corner[1], i)), sum);
      sum = fmaf(__uint_as_float(weight.z), __uint_as_float(register_of(corner[2], i)), sum);
      sum = fmaf(__uint_as_float(weight.w), __uint_as_float(register_of(corner[3], i)), sum);
      value[i] = __float_as_uint(sum);
    }
  }
  static __device__ __forceinline__ uint32_t rounded(uint32_t value) {
    return bits(__uint_as_float(value));
  }
  // A convolution's weight as the tensor cores take it; infinity leaves nothing over. One part for
  // 3xTF32 is what is split later.
  template <typename Vector, int kParts>
  static __device__ __forceinline__ void split(float weight, Vector (&part)[kParts], int i) {
    if constexpr (kParts < weight_parts(kKind)) {
      part[0].lane[i] = __uint_as_float(to_be_split(weight));
    } else {
      const float leading = __uint_as_float(round_to_tf32(weight));
      part[0].lane[i] = leading;
      if constexpr (kParts == 2) {
        const float left = leading == weight ? 0.f : weight - leading;
        part[1].lane[i] = __uint_as_float(round_to_tf32(left));
      }
    }
  }

 private:
  static __device__ __forceinline__ uint32_t bits(float value) {
    return kKind == FusedMath::kTf32 ? rounded_when_cut(value) : __float_as_uint(value);
  }
};
using MathTf32 = MathF32<FusedMath::kTf32>;
using Math3xTf32 = MathF32<FusedMath::k3xTf32>;

}  // namespace dcn
