#include "layout.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/params.h"

namespace dcn {
namespace {

using at::Tensor;
constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

// Below this many columns a tile of the transpose is mostly empty: the taps of a weight, say.
// ATen's copy is better there.
constexpr int64_t kFewColumns = 16;

void transpose(const Tensor& from, const Tensor& to, int64_t rows, int64_t cols) {
  TransposeParams params{};
  params.from = from.const_data_ptr();
  params.to = to.mutable_data_ptr();
  params.from_dtype = dtype_of(from);
  params.to_dtype = dtype_of(to);
  params.batch = from.size(0);
  params.rows = static_cast<int32_t>(rows);
  params.cols = static_cast<int32_t>(cols);
  C10_CUDA_CHECK(launch_transpose(params, c10::cuda::getCurrentCUDAStream()));
}

bool worth_a_transpose(const Tensor& tensor) {
  return tensor.size(1) >= kFewColumns && tensor.size(2) * tensor.size(3) >= kFewColumns;
}

}  // namespace

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Dtype::kF64;
    case at::kFloat:
      return Dtype::kF32;
    case at::kHalf:
      return Dtype::kF16;
    case at::kBFloat16:
      return Dtype::kBF16;
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", tensor.scalar_type());
  }
}

Tensor to_nhwc(const Tensor& tensor) {
  if (!tensor.is_contiguous() || tensor.is_contiguous(kChannelsLast) ||
      !worth_a_transpose(tensor)) {
    return tensor.contiguous(kChannelsLast);
  }
  Tensor nhwc = at::empty(tensor.sizes(), tensor.options().memory_format(kChannelsLast));
  transpose(tensor, nhwc, tensor.size(1), tensor.size(2) * tensor.size(3));
  return nhwc;
}

void store_nhwc(const Tensor& result, const Tensor& owed) {
  if (owed.is_contiguous(kChannelsLast) || !worth_a_transpose(result)) {
    owed.copy_(result);
  } else {
    transpose(result, owed, result.size(2) * result.size(3), result.size(1));
  }
}

Tensor from_nhwc(const Tensor& result, at::ScalarType dtype, at::MemoryFormat format) {
  if (format == kChannelsLast && result.scalar_type() == dtype) return result;
  Tensor owed = at::empty(result.sizes(), result.options().dtype(dtype).memory_format(format));
  store_nhwc(result, owed);
  return owed;
}

}  // namespace dcn
