// Copies between layouts and types: rows as they are, or transposed. Included by kernels.cpp alone.
#pragma once

#include "simd.h"

namespace dcn::cpu {
namespace {

template <typename Src, typename Dst>
void copy_rows(const Transfer<Src, Dst>& t) {
  constexpr int kNative = kNativeLanes<AccType<Src>>;
  for (int64_t r = 0; r < t.rows; ++r) {
    const Src* src = t.src + r * t.src_stride;
    Dst* dst = t.dst + r * t.dst_stride;
    for_vectors<kNative>(static_cast<int>(t.cols), [&](auto width, int c) {
      constexpr int kLanes = decltype(width)::value;
      store<kLanes>(dst + c, load<kLanes>(src + c));
    });
  }
}

// Takes lane l of the result from lane (l & kHalf ? l - kHalf : l) of a or b: one step of a
// transposition, which exchanges the off-diagonal blocks of side kHalf.
template <int kHalf, bool kUpper, typename V, int... l>
DCN_INLINE V exchange(V a, V b, std::integer_sequence<int, l...>) {
  constexpr int kLanes = sizeof...(l);
  return __builtin_shufflevector(
      a, b,
      (kUpper ? (l & kHalf ? kLanes + l - kHalf : l) : (l & kHalf ? kLanes + l : l + kHalf))...);
}

template <int kHalf, typename Acc, int kLanes>
DCN_INLINE void transpose_vectors(Vec<Acc, kLanes> (&rows)[kLanes]) {
  if constexpr (kHalf >= 1) {
    constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
    for (int i = 0; i < kLanes; ++i) {
      if (i & kHalf) continue;
      const auto a = rows[i], b = rows[i + kHalf];
      rows[i] = exchange<kHalf, true>(a, b, kAll);
      rows[i + kHalf] = exchange<kHalf, false>(a, b, kAll);
    }
    transpose_vectors<kHalf / 2, Acc, kLanes>(rows);
  }
}

// A square of the native vector's side.
template <typename Src, typename Dst>
DCN_INLINE void transpose_square(const Src* src, int64_t src_stride, Dst* dst, int64_t dst_stride) {
  using Acc = AccType<Src>;
  constexpr int kLanes = kNativeLanes<Acc>;
  Vec<Acc, kLanes> square[kLanes];
  for (int r = 0; r < kLanes; ++r) square[r] = load<kLanes>(src + r * src_stride);
  transpose_vectors<kLanes / 2, Acc, kLanes>(square);
  for (int c = 0; c < kLanes; ++c) store<kLanes>(dst + c * dst_stride, square[c]);
}

// What is left of a square at an edge.
template <typename Src, typename Dst>
void transpose_edge(const Src* src, int64_t src_stride, Dst* dst, int64_t dst_stride, int rows,
                    int cols) {
  using Acc = AccType<Src>;
  constexpr int kLanes = kNativeLanes<Acc>;
  Vec<Acc, kLanes> square[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    square[r] = load_first<Acc, kLanes>(src + (r < rows ? r : 0) * src_stride, cols);
  }
  transpose_vectors<kLanes / 2, Acc, kLanes>(square);
  for (int c = 0; c < cols; ++c) store_first<Acc, kLanes>(dst + c * dst_stride, square[c], rows);
}

template <typename Src, typename Dst>
void copy_transposed(const Transfer<Src, Dst>& t) {
  constexpr int kSide = kNativeLanes<AccType<Src>>;
  for (int64_t r = 0; r < t.rows; r += kSide) {
    const int rows = static_cast<int>(t.rows - r < kSide ? t.rows - r : kSide);
    for (int64_t c = 0; c < t.cols; c += kSide) {
      const int cols = static_cast<int>(t.cols - c < kSide ? t.cols - c : kSide);
      const Src* src = t.src + r * t.src_stride + c;
      Dst* dst = t.dst + c * t.dst_stride + r;
      if (rows == kSide && cols == kSide) {
        transpose_square(src, t.src_stride, dst, t.dst_stride);
      } else {
        transpose_edge(src, t.src_stride, dst, t.dst_stride, rows, cols);
      }
    }
  }
}

}  // namespace
}  // namespace dcn::cpu
