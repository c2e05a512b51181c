// One typed call into cuBLAS: a strided batch of column-major matrix products with f32 (f64 for
// f64) sums.
#pragma once

#include <cublas_v2.h>

#include "../plan.h"

namespace dcn {

struct GemmOperand {
  const void* data;
  cublasOperation_t operation;
  int64_t leading_dim;
  int64_t batch_stride;  // elements
  Dtype dtype;
};

// out[m, n] = a[m, k] * b[k, n] + beta * out, column-major, `batch` times.
struct GemmProblem {
  int64_t gemm_m, gemm_n, gemm_k;
  GemmOperand a, b;
  void* out;
  int64_t out_leading_dim, out_batch_stride;
  Dtype out_dtype;
  bool accumulate;  // beta = 1, otherwise 0 and `out` is not read
  int batch;
  bool tf32;
};

// cuBLAS for the streams of one call. Each lane brings its own workspace: shared ones would let
// results differ from run to run, and a stream's default one is allocated behind PyTorch's back. On
// destruction the handle's stream is the caller's again.
class Gemm {
 public:
  explicit Gemm(cudaStream_t caller);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  void use_lane(cudaStream_t stream, void* workspace, int64_t workspace_bytes);
  void run(const GemmProblem& problem);

 private:
  cublasHandle_t handle_;
  cudaStream_t caller_;
};

}  // namespace dcn
