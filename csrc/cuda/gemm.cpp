#include "gemm.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/Exceptions.h>

namespace dcn {
namespace {

cudaDataType_t data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
      return CUDA_R_64F;
    case Dtype::kF32:
      return CUDA_R_32F;
    case Dtype::kF16:
      return CUDA_R_16F;
    case Dtype::kBF16:
      return CUDA_R_16BF;
  }
  TORCH_INTERNAL_ASSERT(false, "unknown dtype");
}

cublasComputeType_t compute_type(const GemmProblem& problem) {
  if (problem.out_dtype == Dtype::kF64) return CUBLAS_COMPUTE_64F;
  const bool f32_operands = problem.a.dtype == Dtype::kF32;
  return f32_operands && problem.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

}  // namespace

Gemm::Gemm(cudaStream_t caller) : handle_(at::cuda::getCurrentCUDABlasHandle()), caller_(caller) {
  // Partial sums stay in f32 even where cuBLAS would add up halves; TF32 is chosen per product by
  // its compute type.
  TORCH_CUDABLAS_CHECK(cublasSetMathMode(
      handle_, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                         CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
}

Gemm::~Gemm() {
  // PyTorch sets stream, workspace and math mode again whenever it takes the handle; this drops our
  // workspace before it dies.
  cublasSetStream(handle_, caller_);
}

void Gemm::use_lane(cudaStream_t stream, void* workspace, int64_t workspace_bytes) {
  TORCH_CUDABLAS_CHECK(cublasSetStream(handle_, stream));
  TORCH_CUDABLAS_CHECK(cublasSetWorkspace(handle_, workspace, workspace_bytes));
}

void Gemm::run(const GemmProblem& problem) {
  const bool wide = problem.out_dtype == Dtype::kF64;
  const float one_f32 = 1, beta_f32 = problem.accumulate ? 1 : 0;
  const double one_f64 = 1, beta_f64 = problem.accumulate ? 1 : 0;
  const void* alpha = wide ? static_cast<const void*>(&one_f64) : &one_f32;
  const void* beta = wide ? static_cast<const void*>(&beta_f64) : &beta_f32;
  TORCH_CUDABLAS_CHECK(cublasGemmStridedBatchedEx(
      handle_, problem.a.operation, problem.b.operation, problem.gemm_m, problem.gemm_n,
      problem.gemm_k, alpha, problem.a.data, data_type(problem.a.dtype), problem.a.leading_dim,
      problem.a.batch_stride, problem.b.data, data_type(problem.b.dtype), problem.b.leading_dim,
      problem.b.batch_stride, beta, problem.out, data_type(problem.out_dtype),
      problem.out_leading_dim, problem.out_batch_stride, problem.batch, compute_type(problem),
      CUBLAS_GEMM_DEFAULT));
}

}  // namespace dcn
