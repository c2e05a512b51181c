#include "gemm.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>

namespace dcn::cpu {

// oneDNN's micro-kernel, generated for these sizes when they are first seen; PyTorch itself falls
// back to its BLAS where the processor has none. 16-bit inputs come here as f32 too: without AMX,
// the micro-kernel for bf16 has half this rate.
void gemm(GemmSize size, GemmOperand<const float> a, GemmOperand<const float> b,
          GemmOperand<float> c, bool accumulate) {
  at::native::cpublas::brgemm(size.m, size.n, size.k, a.stride, b.stride, c.stride, accumulate,
                              a.data, b.data, c.data);
}

namespace {

at::Tensor matrix(const double* data, int64_t rows, int64_t cols, int64_t stride) {
  return at::from_blob(const_cast<double*>(data), {rows, cols}, {stride, 1}, at::kDouble);
}

}  // namespace

// There is no micro-kernel for f64. The guard: a thread of a pool has not its caller's dispatch
// state.
void gemm(GemmSize size, GemmOperand<const double> a, GemmOperand<const double> b,
          GemmOperand<double> c, bool accumulate) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor sum = matrix(c.data, size.m, size.n, c.stride);
  at::addmm_out(sum, sum, matrix(a.data, size.m, size.k, a.stride),
                matrix(b.data, size.k, size.n, b.stride), accumulate ? 1.0 : 0.0);
}

}  // namespace dcn::cpu
