#include "nhwc.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace dcn::cpu {
namespace {

// Pixels that one thread transposes at a time.
constexpr int64_t kPixels = 256;

}  // namespace

template <typename Element>
at::Tensor to_channels_last(const at::Tensor& input, const Kernels<Element>& kernels) {
  constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;
  if (input.is_contiguous(kChannelsLast) || !input.is_contiguous()) {
    return input.contiguous(kChannelsLast);
  }
  const at::Tensor output = at::empty(input.sizes(), input.options(), kChannelsLast);
  const int64_t C = input.size(1), plane = input.size(2) * input.size(3);
  const int64_t strips = (plane + kPixels - 1) / kPixels;
  const auto* src = static_cast<const Element*>(input.const_data_ptr());
  auto* dst = static_cast<Element*>(output.mutable_data_ptr());
  at::parallel_for(0, input.size(0) * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / strips * plane * C, pixel = i % strips * kPixels;
      kernels.transpose({src + image + pixel, plane, dst + image + pixel * C, C, C,
                         std::min(kPixels, plane - pixel)});
    }
  });
  return output;
}

template at::Tensor to_channels_last(const at::Tensor&, const Kernels<double>&);
template at::Tensor to_channels_last(const at::Tensor&, const Kernels<float>&);
template at::Tensor to_channels_last(const at::Tensor&, const Kernels<Half>&);
template at::Tensor to_channels_last(const at::Tensor&, const Kernels<BFloat16>&);

}  // namespace dcn::cpu
