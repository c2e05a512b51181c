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

// A row an image.
LargestParams rows_of(const void* data, Dtype dtype, int32_t images, int64_t stride,
                      int64_t length) {
  LargestParams params{};
  params.values = {data, dtype, stride, 0, 0, 1};
  params.images = images;
  params.channels = params.height = 1;
  params.width = static_cast<int32_t>(length);
  return params;
}

// A dense tensor, whatever the order of its dimensions.
LargestParams rows_of(const at::Tensor& tensor, int32_t images) {
  const int64_t length = tensor.numel() / images;
  return rows_of(tensor.const_data_ptr(), dtype_of(tensor), images, length, length);
}

LargestParams maps_of(const SamplingMap& map, const ConvShape& shape) {
  const int32_t channels = shape.D * shape.taps(), plane = shape.output_pixels_per_image();
  if (map.stride_w == 1 && map.stride_h == shape.Q && map.stride_c == plane) {
    return rows_of(map.data, map.dtype, shape.N, map.stride_n, int64_t{channels} * plane);
  }
  return {map, shape.N, channels, shape.P, shape.Q, nullptr};
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

  LargestParams factors[kContributionFactors] = {rows_of(grad, shape.N), rows_of(call.weight, 1),
                                                 maps_of(call.mask, shape)};
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
