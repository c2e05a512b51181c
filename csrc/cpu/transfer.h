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

// Squares of this side: a square of f32 reads and writes whole cache lines.
constexpr int64_t kSquare = 16;

template <typename Src, typename Dst>
DCN_INLINE void convert_one(const Src* src, Dst* dst) {
  store_one(dst, load_one(src));
}
template <typename Same>
DCN_INLINE void convert_one(const Same* src, Same* dst) {
  *dst = *src;
}

template <typename Src, typename Dst>
DCN_INLINE void transpose_square(const Src* src, int64_t src_stride, Dst* dst, int64_t dst_stride,
                                 int64_t rows, int64_t cols) {
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      convert_one(src + r * src_stride + c, dst + c * dst_stride + r);
    }
  }
}

template <typename Src, typename Dst>
void copy_transposed(const Transfer<Src, Dst>& t) {
  for (int64_t r = 0; r < t.rows; r += kSquare) {
    const int64_t rows = t.rows - r < kSquare ? t.rows - r : kSquare;
    for (int64_t c = 0; c < t.cols; c += kSquare) {
      const int64_t cols = t.cols - c < kSquare ? t.cols - c : kSquare;
      transpose_square(t.src + r * t.src_stride + c, t.src_stride, t.dst + c * t.dst_stride + r,
                       t.dst_stride, rows, cols);
    }
  }
}

}  // namespace
}  // namespace dcn::cpu
