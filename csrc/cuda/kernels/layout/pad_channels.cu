// NHWC with segments of channels padded to whole 16-byte vectors: one thread a vector of the
// result.
#include <algorithm>

#include "../fused/fused_params.h"
#include "../sampling.cuh"

namespace dcn {
namespace {

constexpr int kPadThreads = 256;

template <typename Element>
__global__ void __launch_bounds__(kPadThreads) dcn_pad_channels_kernel(PadChannelsParams params) {
  constexpr int kElements = kVectorBytes / sizeof(Element);
  const int32_t vectors = params.layout.channels / kElements;
  const int64_t total = params.pixels * vectors;
  const int64_t step = int64_t{gridDim.x} * kPadThreads;
  for (int64_t i = int64_t{blockIdx.x} * kPadThreads + threadIdx.x; i < total; i += step) {
    const int64_t pixel = i / vectors;
    const Element* from = static_cast<const Element*>(params.from) + pixel * params.channels;
    Vector<Element, kElements> value = {};
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int32_t c = unpadded_channel(params.layout,
                                         static_cast<int32_t>(i - pixel * vectors) * kElements + k);
      if (c >= 0) value.lane[k] = from[c];
    }
    static_cast<Vector<Element, kElements>*>(params.to)[i] = value;
  }
}

}  // namespace

cudaError_t launch_pad_channels(const PadChannelsParams& params, cudaStream_t stream) {
  const int64_t vectors =
      params.pixels * params.layout.channels * params.element_bytes / kVectorBytes;
  if (vectors == 0) return cudaSuccess;
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  const auto blocks = static_cast<unsigned>(std::min(tiles_of(vectors, kPadThreads), kMostBlocks));
  if (params.element_bytes == 2) {
    dcn_pad_channels_kernel<uint16_t><<<blocks, kPadThreads, 0, stream>>>(params);
  } else {
    dcn_pad_channels_kernel<uint32_t><<<blocks, kPadThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace dcn
