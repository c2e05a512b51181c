// Tensors across the border: the kernels are NHWC only, callers hold either memory format.
#pragma once

#include <ATen/core/Tensor.h>

#include "../plan.h"

namespace dcn {

Dtype dtype_of(const at::Tensor& tensor);

// The tensor itself where it is channels_last already, otherwise a channels_last copy.
at::Tensor to_nhwc(const at::Tensor& tensor);

// A channels_last result or sum in the dtype and memory format that the caller is owed; itself
// where it already is that.
at::Tensor from_nhwc(const at::Tensor& result, at::ScalarType dtype, at::MemoryFormat format);

// The same into a tensor that is there: dense, in either memory format.
void store_nhwc(const at::Tensor& result, const at::Tensor& owed);

}  // namespace dcn
