#include "bias_gradient.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>

#include "kernels/params.h"
#include "layout.h"

namespace dcn {

BiasGradient::BiasGradient(const at::Tensor& grad, const ConvShape& shape)
    : grad_(grad), shape_(shape) {
  const auto options = grad.options().memory_format(std::nullopt);
  if (shape.output_pixels() == 0) {
    gradient_ = at::zeros({shape.K}, options);
    return;
  }
  gradient_ = at::empty({shape.K}, options);
  const auto sums = options.dtype(grad.element_size() == 2 ? at::kFloat : at::kDouble);
  partial_ = at::empty({column_sum_slabs(shape.output_pixels()), shape.K}, sums);
}

void BiasGradient::run(c10::cuda::CUDAStream stream) const {
  if (!partial_.defined()) return;
  ColumnSumParams params{};
  params.from = grad_.const_data_ptr();
  params.to = gradient_.mutable_data_ptr();
  params.partial = partial_.mutable_data_ptr();
  params.dtype = dtype_of(grad_);
  params.rows = shape_.output_pixels();
  params.columns = shape_.K;
  C10_CUDA_CHECK(launch_column_sum(params, stream));
}

}  // namespace dcn
