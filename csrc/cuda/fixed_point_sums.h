// The input gradient of im2col_gemm where its bits must repeat: sums in fixed point.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/im2col/fixed_point_params.h"

namespace dcn {

struct Im2colGemmCall;

// Made on the caller's stream, before its lanes are forked; stored there, after they have joined.
class FixedPointSums {
 public:
  FixedPointSums(const Im2colGemmCall& call, const at::Tensor& grad);
  // Of a chunk, whose columns hold gradients of columns.
  void scatter(const ColumnParams& chunk, cudaStream_t stream) const;
  // `gradient`: channels_last, of any dtype.
  void store(const at::Tensor& gradient) const;

 private:
  at::Tensor sums_, largest_;
  ContributionBound bound_;
};

}  // namespace dcn
