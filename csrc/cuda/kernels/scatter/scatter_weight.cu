// What comes before the scatter: its packed weight, and zeros for the sums of the input gradient.
#include "../kernel_setup.h"
#include "../ptx_sm90.cuh"
#include "../sampling.cuh"
#include "../with_math.h"
#include "scatter_params.h"

namespace dcn {
namespace {

constexpr int kPackThreads = 256;

struct ClearParams {
  float4* sums;
  int64_t vectors;
};

// A thread writes a vector of 16 bytes, the output channels of one input channel and tap. Channels
// that pad are zeros. (It waits last: the kernel behind finds what came before, too.)
template <class Math>
__global__ void __launch_bounds__(kPackThreads)
    dcn_pack_scatter_weight_kernel(const PackScatterWeightParams params) {
  using Element = typename Math::Element;
  constexpr int kElements = kVectorBytes / sizeof(Element);
  constexpr int kParts = weight_parts(Math::kKind);
  ptx::launch_dependents();
  const ConvShape& shape = params.shape;
  const ScatterBlocks blocks = scatter_blocks(params.layout, params.grad_layout, sizeof(Element));
  const int64_t i = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  const int lane = static_cast<int>(i % 32);
  int64_t rest = i / 32;
  const int64_t vectors = rest;  // of all lanes, before this one's
  const auto next = [&rest](int32_t length) {
    const auto digit = static_cast<int32_t>(rest % length);
    rest /= length;
    return digit;
  };
  const int32_t halves = packed_halves(blocks, sizeof(Element));
  const int32_t tap = next(shape.taps()), half = next(halves), block = next(blocks.count);
  if (rest >= shape.D) return;
  const ScatterBlock at = scatter_block(params.layout, blocks, static_cast<int32_t>(rest), block);
  const int32_t in_group = at.channel - at.group * params.layout.group_channels + lane / 4;
  const int32_t channel = lane / 4 < at.channels ? unpadded_channel(params.layout, in_group) : -1;
  const int32_t r = tap / shape.S, s = tap - r * shape.S;
  const Element* const weight = static_cast<const Element*>(params.weight) +
                                channel * params.stride_c + r * params.stride_r +
                                s * params.stride_s;
  Vector<Element, kElements> value[kParts] = {};
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const int32_t k = (half * 4 + lane % 4) * kElements + e, per_group = shape.K / shape.G;
    if (channel < 0 || k >= per_group) continue;
    Math::split(weight[(at.group * per_group + k) * params.stride_k], value, e);
  }
  auto* const to = static_cast<Vector<Element, kElements>*>(params.packed);
  if constexpr (sizeof(Element) == 2) {
    const int64_t tile = ((rest * blocks.count + block) * (halves / 2) + half / 2) * shape.taps();
    const int row = lane / 4, vector = half % 2 * 4 + lane % 4;
    to[((tile + tap) * kBlockChannels + row) * 8 + (vector ^ row)] = value[0];
  } else {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      to[(vectors * kParts + part) * 32 + lane] = value[part];
    }
  }
  ptx::wait_for_previous_grid();
}

template <class Math>
cudaError_t launch(const PackScatterWeightParams& params, cudaStream_t stream,
                   bool beside_previous) {
  const ScatterBlocks blocks =
      scatter_blocks(params.layout, params.grad_layout, sizeof(typename Math::Element));
  const int64_t vectors = int64_t{params.shape.D} * blocks.count *
                          packed_halves(blocks, sizeof(typename Math::Element)) *
                          params.shape.taps() * 32;
  return launch_kernel<dcn_pack_scatter_weight_kernel<Math>>(
      dim3(static_cast<unsigned>(tiles_of(vectors, kPackThreads))), kPackThreads, 0, stream, params,
      beside_previous);
}

constexpr int kClearThreads = 512;
constexpr int kClearCtas = 4;  // of a multiprocessor

__global__ void __launch_bounds__(kClearThreads)
    dcn_scatter_clear_kernel(const __grid_constant__ ClearParams params) {
  ptx::launch_dependents();
  const int64_t step = int64_t{gridDim.x} * kClearThreads;
#pragma unroll 4
  for (int64_t i = int64_t{blockIdx.x} * kClearThreads + threadIdx.x; i < params.vectors;
       i += step) {
    params.sums[i] = {};
  }
  ptx::wait_for_previous_grid();
}

}  // namespace

cudaError_t launch_clear_sums(float* sums, int64_t bytes, int multiprocessors, cudaStream_t stream,
                              bool beside_previous) {
  const ClearParams params{reinterpret_cast<float4*>(sums), bytes / kVectorBytes};
  return launch_kernel<dcn_scatter_clear_kernel>(
      dim3(static_cast<unsigned>(multiprocessors * kClearCtas)), kClearThreads, 0, stream, params,
      beside_previous);
}

cudaError_t launch_pack_scatter_weight(const PackScatterWeightParams& params, cudaStream_t stream,
                                       bool beside_previous) {
  return with_math(params.math, [&](auto arithmetic) {
    return launch<decltype(arithmetic)>(params, stream, beside_previous);
  });
}

}  // namespace dcn
