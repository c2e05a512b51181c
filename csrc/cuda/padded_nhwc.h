// Images as the fused kernels read them.
#pragma once

#include <ATen/core/Tensor.h>

#include "../fused_layout.h"

namespace dcn {

// Whether loads of kVectorBytes may start at its first element.
bool vectors_aligned(const at::Tensor& tensor);

// The image as the kernels read it: NHWC, each segment of channels in whole, aligned vectors. An
// aligned channels_last input whose segments are such already is taken as it is.
at::Tensor padded_nhwc(const at::Tensor& input, const ConvShape& shape, const FusedLayout& layout);

}  // namespace dcn
