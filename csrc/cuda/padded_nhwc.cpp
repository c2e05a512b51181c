#include "padded_nhwc.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/fused/fused_params.h"
#include "layout.h"

namespace dcn {

using at::Tensor;

bool vectors_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kVectorBytes == 0;
}

Tensor padded_nhwc(const Tensor& input, const ConvShape& shape, const FusedLayout& layout) {
  const Tensor nhwc = to_nhwc(input);
  if (!layout.padded()) {
    return vectors_aligned(nhwc) ? nhwc : nhwc.clone(at::MemoryFormat::ChannelsLast);
  }
  const Tensor padded = at::empty({shape.N, shape.H, shape.W, layout.channels},
                                  input.options().memory_format(at::MemoryFormat::Contiguous));
  PadChannelsParams params{};
  params.from = nhwc.const_data_ptr();
  params.to = padded.mutable_data_ptr();
  params.element_bytes = static_cast<int32_t>(input.element_size());
  params.pixels = shape.input_pixels();
  params.channels = shape.C;
  params.layout = layout;
  C10_CUDA_CHECK(launch_pad_channels(params, c10::cuda::getCurrentCUDAStream()));
  return padded;
}

}  // namespace dcn
