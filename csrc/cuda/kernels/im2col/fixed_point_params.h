// The input gradient in fixed point: what travels to its kernels.
#pragma once

#include "../../../fixed_point.h"
#include "../params.h"

namespace dcn {

// Raises *largest to the bits of the largest finite magnitude, in f64. Weight and grad_out, which
// are dense, are maps of one row an image.
struct LargestParams {
  SamplingMap values;  // [images, channels, height, width]
  int32_t images, channels, height, width;
  unsigned long long* largest;
};

struct FixedPointScatterParams {
  ColumnParams chunk;  // whose columns are gradients of columns
  ContributionBound bound;
  unsigned long long* sums;  // [words, N, H, W, C], empty sums at first
  int32_t lanes;             // that share a sample; set by the launcher
};

struct FixedPointStoreParams {
  ContributionBound bound;
  const unsigned long long* sums;
  void* gradient;  // [N, H, W, C]
  Dtype dtype;
  int64_t count;  // values of the gradient
};

cudaError_t launch_largest(const LargestParams& params, cudaStream_t stream);
cudaError_t launch_fixed_point_scatter(FixedPointScatterParams params, cudaStream_t stream);
cudaError_t launch_fixed_point_store(const FixedPointStoreParams& params, cudaStream_t stream);

}  // namespace dcn
