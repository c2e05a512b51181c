#include "fixed_point_sums.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "im2col_gemm.h"
#include "layout.h"

namespace dcn {
namespace {

unsigned long long* words(const at::Tensor& tensor) {
  return static_cast<unsigned long long*>(tensor.mutable_data_ptr());
}

// A dense tensor, whatever the order of its dimensions.
LargestParams rows_of(const at::Tensor& tensor, int64_t rows) {
  LargestParams params{};
  params.values.data = tensor.const_data_ptr();
  params.values.dtype = dtype_of(tensor);
  params.values.stride_n = tensor.numel() / rows;
  params.values.stride_w = 1;
  params.images = static_cast<int32_t>(rows);
  params.channels = params.height = 1;
  params.width = static_cast<int32_t>(tensor.numel() / rows);
  return params;
}

}  // namespace

FixedPointSums::FixedPointSums(const Im2colGemmCall& call, const at::Tensor& grad) {
  const ConvShape& shape = call.shape;
  const auto integers = call.input.options().dtype(at::kLong).memory_format(std::nullopt);
  const int64_t count = call.plan.accumulator_bytes / static_cast<int64_t>(sizeof(int64_t));
  sums_ = at::full({count}, static_cast<int64_t>(kEmptySum), integers);
  largest_ = at::zeros({kContributionFactors}, integers);
  const bool has_mask = call.mask.data != nullptr;
  bound_ = contribution_bound(shape, has_mask, words(largest_));

  LargestParams of_mask{};
  of_mask.values = call.mask;
  of_mask.images = shape.N;
  of_mask.channels = shape.D * shape.taps();
  of_mask.height = shape.P;
  of_mask.width = shape.Q;
  LargestParams factors[kContributionFactors] = {rows_of(grad, shape.N), rows_of(call.weight, 1),
                                                 of_mask};
  const auto stream = c10::cuda::getCurrentCUDAStream();
  for (int i = 0; i < bound_.factors; ++i) {
    factors[i].largest = words(largest_) + i;
    C10_CUDA_CHECK(launch_largest(factors[i], stream));
  }
}

void FixedPointSums::scatter(const ColumnParams& chunk, cudaStream_t stream) const {
  FixedPointScatterParams params{};
  params.chunk = chunk;
  params.bound = bound_;
  params.sums = words(sums_);
  C10_CUDA_CHECK(launch_fixed_point_scatter(params, stream));
}

void FixedPointSums::store(const at::Tensor& gradient) const {
  FixedPointStoreParams params{};
  params.bound = bound_;
  params.sums = words(sums_);
  params.gradient = gradient.mutable_data_ptr();
  params.dtype = dtype_of(gradient);
  params.count = gradient.numel();
  C10_CUDA_CHECK(launch_fixed_point_store(params, c10::cuda::getCurrentCUDAStream()));
}

}  // namespace dcn
