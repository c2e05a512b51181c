// One matrix product of row-major sums, for use inside a parallel region: c = a * b, or c += a * b.
#pragma once

#include <cstdint>

namespace dcn::cpu {

struct GemmSize {
  int64_t m, n, k;
};

template <typename Acc>
struct GemmOperand {
  Acc* data;
  int64_t stride;  // between rows
};

void gemm(GemmSize size, GemmOperand<const float> a, GemmOperand<const float> b,
          GemmOperand<float> c, bool accumulate);
void gemm(GemmSize size, GemmOperand<const double> a, GemmOperand<const double> b,
          GemmOperand<double> c, bool accumulate);

}  // namespace dcn::cpu
