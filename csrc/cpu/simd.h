// Vectors of 1 to 16 values, and how elements of every type are read into them. Included by
// kernels.cpp alone.
//
// The compiler's own vector types, so one source serves every instruction set; intrinsics only for
// conversions of f16, which it does not know. Everything has internal linkage and is inlined
// (kernels.h says why).
#pragma once

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <utility>

#include "kernels.h"

#define DCN_INLINE __attribute__((always_inline)) inline

namespace dcn::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T, int kLanes>
struct VecOf {
  typedef T type __attribute__((vector_size(sizeof(T) * kLanes)));
};
template <typename T, int kLanes>
using Vec = typename VecOf<T, kLanes>::type;

template <typename Acc>
constexpr int kNativeLanes = kVectorBytes / sizeof(Acc);

template <int kLanes>
struct Width {
  static constexpr int value = kLanes;
};

// Calls body(Width, c) for vectors that together cover [0, count): native ones, then halves of
// that. 6 values are 4 + 2.
template <int kLanes, typename Body>
DCN_INLINE void for_tail(int count, int c, const Body& body) {
  if constexpr (kLanes >= 1) {
    if (c + kLanes <= count) {
      body(Width<kLanes>{}, c);
      c += kLanes;
    }
    for_tail<kLanes / 2>(count, c, body);
  }
}
template <int kLanes, typename Body>
DCN_INLINE void for_vectors(int count, const Body& body) {
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) body(Width<kLanes>{}, c);
  if (c < count) for_tail<kLanes / 2>(count, c, body);
}

template <typename V, typename T>
DCN_INLINE V load_bits(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <typename To, typename From>
DCN_INLINE To cast_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <int kLanes>
DCN_INLINE Vec<float, kLanes> load(const float* from) {
  return load_bits<Vec<float, kLanes>>(from);
}
template <int kLanes>
DCN_INLINE Vec<double, kLanes> load(const double* from) {
  return load_bits<Vec<double, kLanes>>(from);
}
template <int kLanes>
DCN_INLINE Vec<float, kLanes> load(const BFloat16* from) {
  const auto bits =
      __builtin_convertvector(load_bits<Vec<uint16_t, kLanes>>(from), Vec<uint32_t, kLanes>);
  return cast_bits<Vec<float, kLanes>>(bits << 16);
}

// f16 without conversion instructions. Exponent and mantissa are moved to their place in f32; the
// product with 2^112 then corrects the exponent's bias, subnormal numbers included. What overflowed
// the small exponent (Inf, NaN) gets the largest one.
template <int kLanes>
DCN_INLINE Vec<float, kLanes> from_half_bits(Vec<uint32_t, kLanes> bits) {
  using F = Vec<float, kLanes>;
  using U = Vec<uint32_t, kLanes>;
  const F scaled = cast_bits<F>((bits & 0x7fffu) << 13) * 0x1p112f;
  const U special = (U)((bits & 0x7c00u) == 0x7c00u) & 0x7f800000u;
  return cast_bits<F>(cast_bits<U>(scaled) | special | ((bits & 0x8000u) << 16));
}

template <int kLanes>
DCN_INLINE Vec<float, kLanes> load(const Half* from) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) return _mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(from));
#endif
#if defined(__F16C__)
  if constexpr (kLanes == 8) return _mm256_cvtph_ps(load_bits<__m128i>(from));
  if constexpr (kLanes == 4) {
    return _mm_cvtph_ps(_mm_cvtsi64_si128(load_bits<long long>(from)));
  }
#endif
  return from_half_bits<kLanes>(
      __builtin_convertvector(load_bits<Vec<uint16_t, kLanes>>(from), Vec<uint32_t, kLanes>));
}

template <int kLanes>
DCN_INLINE void store(float* to, Vec<float, kLanes> v) {
  __builtin_memcpy(to, &v, sizeof v);
}
template <int kLanes>
DCN_INLINE void store(double* to, Vec<double, kLanes> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <int kLanes>
DCN_INLINE void store_low_halves(void* to, Vec<uint32_t, kLanes> bits) {
  const auto narrow = __builtin_convertvector(bits, Vec<uint16_t, kLanes>);
  __builtin_memcpy(to, &narrow, sizeof narrow);
}

// Rounds to nearest, ties to even; a NaN stays one.
template <int kLanes>
DCN_INLINE void store(BFloat16* to, Vec<float, kLanes> v) {
  using U = Vec<uint32_t, kLanes>;
  const U bits = cast_bits<U>(v);
  const U nan = (U)(v != v);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  store_low_halves<kLanes>(to, (nan & ((bits >> 16) | 0x40u)) | (~nan & rounded));
}

// f16 without conversion instructions: adding a power of two rounds subnormal numbers, an integer
// addition the normal ones.
template <int kLanes>
DCN_INLINE Vec<uint32_t, kLanes> to_half_bits(Vec<float, kLanes> v) {
  using F = Vec<float, kLanes>;
  using U = Vec<uint32_t, kLanes>;
  const U bits = cast_bits<U>(v);
  const U magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const U subnormal = cast_bits<U>(cast_bits<F>(magnitude) + 0.5f) - 0x3f000000u;
  const U is_subnormal = (U)(magnitude < (113u << 23));
  const U is_large = (U)(magnitude >= 0x477ff000u);  // rounds to 2^16 and beyond: Inf
  const U is_nan = (U)(magnitude > 0x7f800000u);
  U half = (is_subnormal & subnormal) | (~is_subnormal & normal);
  half = (is_large & 0x7c00u) | (~is_large & half);
  half = (is_nan & 0x7e00u) | (~is_nan & half);
  return half | ((bits >> 16) & 0x8000u);
}

template <int kLanes>
DCN_INLINE void store(Half* to, Vec<float, kLanes> v) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) {
    const __m256i half = _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(to, &half, sizeof half);
    return;
  }
#endif
#if defined(__F16C__)
  if constexpr (kLanes == 8) {
    const __m128i half = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(to, &half, sizeof half);
    return;
  }
#endif
  store_low_halves<kLanes>(to, to_half_bits<kLanes>(v));
}

// The first `count` values of a vector, in parts of half its size, a quarter...; those not read are
// 0.
template <typename Acc, int kLanes, typename Element>
DCN_INLINE Vec<Acc, kLanes> load_first(const Element* from, int count) {
  if (count >= kLanes) return load<kLanes>(from);
  alignas(64) Acc values[kLanes] = {};
  for_tail<kLanes / 2>(count, 0, [&](auto width, int i) {
    constexpr int kPart = decltype(width)::value;
    store<kPart>(values + i, load<kPart>(from + i));
  });
  return load<kLanes>(values);
}
template <typename Acc, int kLanes, typename Element>
DCN_INLINE void store_first(Element* to, Vec<Acc, kLanes> v, int count) {
  if (count >= kLanes) return store<kLanes>(to, v);
  alignas(64) Acc values[kLanes];
  store<kLanes>(values, v);
  for_tail<kLanes / 2>(count, 0, [&](auto width, int i) {
    constexpr int kPart = decltype(width)::value;
    store<kPart>(to + i, load<kPart>(values + i));
  });
}

// Sums of neighbours: those of a, then those of b.
template <typename V, int... l>
DCN_INLINE V add_neighbours(V a, V b, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(a, b, 2 * l...) + __builtin_shufflevector(a, b, 2 * l + 1 ...);
}
template <typename Acc, int kLanes, int... l>
DCN_INLINE Vec<Acc, kLanes / 2> halve(Vec<Acc, kLanes> v, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(v, v, 2 * l...) + __builtin_shufflevector(v, v, 2 * l + 1 ...);
}

// The sum of each of four vectors.
template <typename Acc, int kLanes>
DCN_INLINE Vec<Acc, 4> four_sums(const Vec<Acc, kLanes> (&v)[4]) {
  if constexpr (kLanes == 1) {
    return Vec<Acc, 4>{v[0][0], v[1][0], v[2][0], v[3][0]};
  } else if constexpr (kLanes == 2) {
    return Vec<Acc, 4>{v[0][0] + v[0][1], v[1][0] + v[1][1], v[2][0] + v[2][1], v[3][0] + v[3][1]};
  } else {
    constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
    const auto sums =
        add_neighbours(add_neighbours(v[0], v[1], kAll), add_neighbours(v[2], v[3], kAll), kAll);
    if constexpr (kLanes == 4) {
      return sums;
    } else {
      const auto half = halve<Acc, kLanes>(sums, std::make_integer_sequence<int, kLanes / 2>{});
      if constexpr (kLanes == 8) {
        return half;
      } else {
        return halve<Acc, kLanes / 2>(half, std::make_integer_sequence<int, kLanes / 4>{});
      }
    }
  }
}

}  // namespace
}  // namespace dcn::cpu
