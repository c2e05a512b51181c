// How the bias gradient, a sum over all output pixels, is cut: partial sums of slabs of pixels.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dcn {

// Below that a slab's reduction costs more than its rows.
constexpr int64_t kSlabRows = 32;
// With 8 blocks or more along K enough to fill any GPU twice.
constexpr int64_t kMaxSlabs = 256;

constexpr int64_t column_sum_slabs(int64_t rows) {
  return std::min((rows + kSlabRows - 1) / kSlabRows, kMaxSlabs);
}
// Partial sums are f32 for values of 16 bits, f64 for others.
constexpr int64_t column_sum_bytes(int64_t rows, int64_t columns, int64_t element_bytes) {
  return column_sum_slabs(rows) * columns * (element_bytes == 2 ? 4 : 8);
}

}  // namespace dcn
