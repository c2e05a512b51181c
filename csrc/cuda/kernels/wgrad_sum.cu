// The end of the weight gradient: the f32 sums that segments left are added in the order of the
// segments, and stored in the weight's dtype and strides.
//
//   block     a fragment of sums, 16 channels of a slice x 8 output channels (in f32 8 x 16), x the
//             taps of a chunk, so that stores of a weight whose taps lie together are whole
//   warp      one tap, and one of `blockDim.z` parts of the segments
#include "kernel_setup.h"
#include "ptx_sm90.cuh"
#include "sampling.cuh"
#include "wgrad_launch.h"
#include "with_math.h"

namespace dcn {
namespace {

constexpr int kBlockSums = 128;
template <typename Element>
constexpr int kBlockChannels = sizeof(Element) == 2 ? 16 : 8;  // of the image
template <typename Element>
constexpr int kBlockK = kBlockSums / kBlockChannels<Element>;  // output channels
constexpr int kMostSumParts = 3;
constexpr int kLoads = 8;  // on their way at once

__device__ __forceinline__ void add(float4& sum, float4 v) {
  sum.x += v.x;
  sum.y += v.y;
  sum.z += v.z;
  sum.w += v.w;
}

// The c-th channel and the k-th output channel of a block: where their sum is among the block's, of
// which lane (g, q) has rows g and g + 8 and columns 2 * q and 2 * q + 1; and which they are, of
// the slice and of the group. In 16 bits rows are channels; in f32 columns are, and both are
// permuted as in wgrad_f32.cuh.
struct Place {
  int32_t sum, channel, k;
};
template <typename Element>
__device__ __forceinline__ Place place_of(int32_t c, int32_t k, int32_t channels, int32_t block) {
  const int32_t of_group = block * kBlockK<Element> + k;
  if constexpr (sizeof(Element) == 2) {
    return {(c % 8 * 4 + k / 2) * 4 + c / 8 * 2 + k % 2, channels * 16 + c, of_group};
  } else {
    return {(k / 2 * 4 + c / 2) * 4 + k % 2 * 2 + c % 2, c * 4 + channels, of_group};
  }
}

template <typename Element>
__global__ void __launch_bounds__(kMostSumParts* kPlanTaps * 32)
    dcn_wgrad_sum_kernel(const __grid_constant__ WgradParams params) {
  constexpr int kSliceChannels = kSliceBytes / sizeof(Element);
  constexpr int kChannels = kBlockChannels<Element>, kOutputs = kBlockK<Element>;
  __shared__ float sums[kMostSumParts][kPlanTaps][kBlockSums];
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;
  constexpr int kParts = kSliceChannels / kChannels;  // blocks of a slice
  const int32_t slice_of_all = blockIdx.x / kParts, part_of_slice = blockIdx.x % kParts;
  const int32_t slices = params.units / shape.taps();
  const int32_t group = slice_of_all / slices, slice = slice_of_all - group * slices;
  const int32_t first_k = blockIdx.y * kOutputs;
  const int32_t first_tap = blockIdx.z * kPlanTaps;
  const int32_t taps = min(kPlanTaps, shape.taps() - first_tap);
  ptx::wait_for_previous_grid();  // it leaves the sums

  if (static_cast<int32_t>(threadIdx.y) < taps) {
    const int32_t together = params.unit_slices, first_slice = slice / together * together;
    const int32_t unit =
        first_slice * shape.taps() + (first_tap + threadIdx.y) * together + slice - first_slice;
    const int32_t channel_tile = first_k / params.tile_channels;
    const int32_t unit_tile = unit / params.tile_units;
    const int32_t t = (group * params.channel_tiles + channel_tile) * params.unit_tiles + unit_tile;
    const int64_t begin = int64_t{t} * params.steps;
    const int32_t first = cta_of_step(params, begin);
    const int32_t segments = cta_of_step(params, begin + params.steps - 1) + 1 - first;
    const int32_t from = segments * threadIdx.z / blockDim.z;
    const int32_t to = segments * (threadIdx.z + 1) / blockDim.z;
    const int64_t unit_vectors = int64_t{params.tile_channels} * kSliceChannels / 4;
    const int64_t segment = params.tile_units * unit_vectors;
    const float4* at =
        reinterpret_cast<const float4*>(params.partial) + (first + t) * segment +
        (unit - unit_tile * params.tile_units) * unit_vectors +
        ((first_k - channel_tile * params.tile_channels) / kOutputs * kParts + part_of_slice) * 32 +
        threadIdx.x;
    float4 sum = {0.f, 0.f, 0.f, 0.f};
    for (int32_t i = from; i < to; i += kLoads) {
      float4 v[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int32_t n = i + j;
        v[j] = n < to ? __ldcg(at + n * segment) : float4{0.f, 0.f, 0.f, 0.f};
      }
#pragma unroll
      for (int j = 0; j < kLoads; ++j) add(sum, v[j]);
    }
    reinterpret_cast<float4*>(sums[threadIdx.z][threadIdx.y])[threadIdx.x] = sum;
  }
  __syncthreads();

  const int32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * 32 + threadIdx.x;
  const bool taps_inside = params.stride_s <= params.stride_c;  // taps lie closer than channels
  for (int32_t i = thread; i < taps * kBlockSums; i += blockDim.x * blockDim.y * blockDim.z) {
    const int32_t rest = taps_inside ? i / taps : i;
    const int32_t c = rest % kChannels;
    const int32_t outer = rest / kChannels;
    const int32_t tap = taps_inside ? i - rest * taps : outer / kOutputs;
    const int32_t k = taps_inside ? outer : outer % kOutputs;
    const Place at = place_of<Element>(c, k, part_of_slice, blockIdx.y);
    float sum = sums[0][tap][at.sum];
    for (int part = 1; part < static_cast<int>(blockDim.z); ++part) sum += sums[part][tap][at.sum];
    const int32_t block = slice / layout.slices;
    const int32_t in_block = (slice - block * layout.slices) * kSliceChannels + at.channel;
    if (in_block >= layout.block_channels) continue;
    const int32_t padded = block * layout.block_channels + in_block;
    const int32_t channel = layout.padded() ? unpadded_channel(layout, padded) : padded;
    if (channel < 0 || at.k >= shape.output_channels_per_group()) continue;
    const int32_t r = (first_tap + tap) / shape.S, s = first_tap + tap - r * shape.S;
    Element* const weight =
        static_cast<Element*>(params.grad_weight) +
        (int64_t{group} * shape.output_channels_per_group() + at.k) * params.stride_k +
        channel * params.stride_c + r * params.stride_r + s * params.stride_s;
    narrow(sum, *weight);
  }
}

template <typename Element>
cudaError_t launch(const WgradParams& params, cudaStream_t stream) {
  const cudaError_t error = set_up_kernel<dcn_wgrad_sum_kernel<Element>>(0);
  if (error != cudaSuccess) return error;
  constexpr int kParts = kSliceBytes / sizeof(Element) / kBlockChannels<Element>;
  const ConvShape& shape = params.shape;
  const unsigned taps = std::min(shape.taps(), kPlanTaps);
  const int64_t segments = params.ctas / (params.all_steps / params.steps);  // of a tile, about
  cudaLaunchAttribute attributes[1] = {};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(shape.G * (params.units / shape.taps()) * kParts,
                        tiles_of(shape.output_channels_per_group(), kBlockK<Element>),
                        tiles_of(shape.taps(), kPlanTaps));
  launch.blockDim = dim3(32, taps, segments > 2 * kLoads ? kMostSumParts : 1);
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = 1;
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  return cudaLaunchKernelEx(&launch, dcn_wgrad_sum_kernel<Element>, params);
}

}  // namespace

cudaError_t launch_wgrad_sum(const WgradParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch<typename decltype(arithmetic)::Element>(params, stream);
  });
}

}  // namespace dcn
