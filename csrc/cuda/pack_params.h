// How a weight tensor is handed to the kernel that packs it; the caller adds where to, and tiles.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "kernels/fused/fused_params.h"

namespace dcn {

// For the forward pass of `shape` on compute capability 9.0, so many of whose groups run as one.
inline PackWeightParams pack_params(const ConvShape& shape, FusedMath math,
                                    const at::Tensor& weight, int merged_groups = 1) {
  PackWeightParams params{};
  params.shape = merged(shape, merged_groups);
  params.layout = fused_layout(params.shape, element_bytes(math));
  params.merged = {params.shape, merged_groups};
  params.math = math;
  params.whole =
      packed_parts(params.shape, params.layout, math, merged_groups) < weight_parts(math);
  params.weight = weight.const_data_ptr();
  params.stride_g = shape.output_channels_per_group() * weight.stride(0);
  params.stride_k = weight.stride(0);
  params.stride_c = weight.stride(1);
  params.stride_r = weight.stride(2);
  params.stride_s = weight.stride(3);
  return params;
}

// For the transposed convolution: the weight's channels of input and output change places.
inline PackWeightParams transposed_pack_params(const ConvShape& shape, FusedMath math,
                                               const at::Tensor& weight, int merged_groups) {
  PackWeightParams params = pack_params(shape, math, weight, merged_groups);
  params.shape = transposed(params.shape);
  params.layout = fused_layout(params.shape, element_bytes(math));
  params.merged = {params.shape, merged_groups};
  params.whole = false;
  std::swap(params.stride_k, params.stride_c);
  return params;
}

}  // namespace dcn
