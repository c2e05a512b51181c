// The end of the weight gradient: the f32 sums that segments left are added in the order of the
// segments, and stored in the weight's dtype and strides.
//
//   block     16 channels of a slice x the taps of a chunk, for 8 output channels at a time, a
//             fragment of sums (in f32 8 x 16), so that stores of a weight whose taps lie together
//             are whole
//   warp      one tap, and one of `blockDim.z` parts of the segments
#include "../kernel_setup.h"
#include "../sampling.cuh"
#include "../with_math.h"
#include "wgrad_launch.h"

namespace dcn {
namespace {

constexpr int kBlockSums = 128;
template <typename Element>
constexpr int kBlockChannels = sizeof(Element) == 2 ? 16 : 8;  // of the image
template <typename Element>
constexpr int kBlockK = kBlockSums / kBlockChannels<Element>;  // output channels
constexpr int kMostSumParts = 3;
constexpr int kLoads = 8;  // on their way at once

// More would find no place, and what a block computes at first takes as long as a round.
constexpr int64_t kMostBlocks = 396;

// Of output channels.
template <typename Element>
DCN_HOST_DEVICE int32_t blocks_of(int32_t output_channels) {
  return tiles_of(output_channels, kBlockK<Element>);
}

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

// One block of a multiprocessor: or the compiler spares registers, and loads wait for one another.
template <typename Element>
__global__ void __launch_bounds__(kMostSumParts* kPlanTaps * 32, 1)
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
  const int32_t first_tap = blockIdx.z * kPlanTaps;
  const int32_t taps = min(kPlanTaps, shape.taps() - first_tap);
  const int32_t output_channels = shape.output_channels_per_group();
  // The weights of channel `in_slice` of the slice, of a tap: where output channel 0 has its own,
  // or would, and of which output channels there are some.
  struct Weights {
    Element* first = nullptr;
    int32_t begin = 0;
  };
  const auto weights_of = [&](int32_t in_slice, int32_t tap) -> Weights {
    const int32_t block = slice / layout.slices;
    const int32_t in_block = (slice - block * layout.slices) * kSliceChannels + in_slice;
    if (in_block >= layout.block_channels) return {};
    const int32_t padded = block * layout.block_channels + in_block;
    const int32_t channel = layout.padded() ? unpadded_channel(layout, padded) : padded;
    if (channel < 0) return {};
    const int32_t own = params.merged.channels.quotient(channel);
    const int32_t c = channel - own * params.merged.channels.value;
    const int32_t r = (first_tap + tap) / shape.S, s = first_tap + tap - r * shape.S;
    return {static_cast<Element*>(params.grad_weight) +
                int64_t{group} * output_channels * params.stride_k + c * params.stride_c +
                r * params.stride_r + s * params.stride_s,
            own * static_cast<int32_t>(params.merged.outputs.value)};
  };
  const int32_t tap = threadIdx.y, c = threadIdx.x % kChannels;
  const bool has_tap = tap < taps;
  // Where channels lie closer than taps, a warp stores those of its tap.
  const bool tap_by_tap = params.stride_s > params.stride_c;
  const Weights weights = tap_by_tap && has_tap
                              ? weights_of(place_of<Element>(c, 0, part_of_slice, 0).channel, tap)
                              : Weights{};
  const int32_t together = params.unit_slices, first_slice = slice / together * together;
  const int32_t unit =
      first_slice * shape.taps() + (first_tap + tap) * together + slice - first_slice;
  const int32_t unit_tile = unit / params.tile_units;
  const int64_t unit_vectors = int64_t{params.tile_channels} * kSliceChannels / 4;
  const int64_t segment = params.tile_units * unit_vectors;

  int32_t channel_tile = -1, segments = 0;
  const float4* of_tile = nullptr;  // this lane's of the first segment
  const int32_t k_blocks = blocks_of<Element>(output_channels);
#pragma unroll 1
  for (int32_t k_block = blockIdx.y; k_block < k_blocks; k_block += gridDim.y) {
    const int32_t first_k = k_block * kOutputs;
    if (has_tap) {
      if (first_k / params.tile_channels != channel_tile) {
        channel_tile = first_k / params.tile_channels;
        const int32_t t =
            (group * params.channel_tiles + channel_tile) * params.unit_tiles + unit_tile;
        const int64_t begin = int64_t{t} * params.steps;
        const int32_t first = cta_of_step(params, begin);
        const int32_t all = cta_of_step(params, begin + params.steps - 1) + 1 - first;
        const int32_t from = all * threadIdx.z / blockDim.z;
        segments = all * (threadIdx.z + 1) / blockDim.z - from;
        of_tile = reinterpret_cast<const float4*>(params.partial) + (first + t + from) * segment +
                  (unit - unit_tile * params.tile_units) * unit_vectors + part_of_slice * 32 +
                  threadIdx.x;
      }
      const float4* at =
          of_tile + (first_k - channel_tile * params.tile_channels) / kOutputs * kParts * 32;
      float4 sum = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 1
      for (int32_t left = segments; left > 0; left -= kLoads) {
        float4 v[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          v[j] = *at;
          if (j + 1 < left) at += segment;  // then that one again, which is not added
        }
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          if (j < left) add(sum, v[j]);
        }
      }
      reinterpret_cast<float4*>(sums[threadIdx.z][tap])[threadIdx.x] = sum;
    }
    __syncthreads();

    const auto store = [&](int32_t of_tap, const Place& at, const Weights& weights) {
      const auto own_k = static_cast<uint32_t>(at.k - weights.begin);
      if (weights.first == nullptr || own_k >= params.merged.outputs.value) return;
      float sum = sums[0][of_tap][at.sum];
#pragma unroll 1
      for (int part = 1; part < static_cast<int>(blockDim.z); ++part) {
        sum += sums[part][of_tap][at.sum];
      }
      narrow(sum, weights.first[at.k * params.stride_k]);
    };
    if (tap_by_tap) {
      constexpr int kRows = 32 / kChannels;
#pragma unroll
      for (int j = 0; j < kOutputs / kRows; ++j) {
        const int32_t k = kRows * j + threadIdx.x / kChannels;
        if (j % blockDim.z == threadIdx.z) {
          store(tap, place_of<Element>(c, k, part_of_slice, k_block), weights);
        }
      }
    } else {
      const int32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * 32 + threadIdx.x;
      for (int32_t i = thread; i < taps * kBlockSums; i += blockDim.x * blockDim.y * blockDim.z) {
        const int32_t outer = i / taps, of_tap = i - outer * taps;
        const Place at =
            place_of<Element>(outer % kChannels, outer / kChannels, part_of_slice, k_block);
        store(of_tap, at, weights_of(at.channel, of_tap));
      }
    }
    __syncthreads();  // the sums have been read
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
  cudaLaunchConfig_t launch = {};
  const int64_t columns = int64_t{shape.G} * (params.units / shape.taps()) * kParts;
  const int64_t rows = std::max<int64_t>(kMostBlocks / columns, 1);
  launch.gridDim =
      dim3(static_cast<unsigned>(columns),
           std::min<int64_t>(rows, blocks_of<Element>(shape.output_channels_per_group())),
           tiles_of(shape.taps(), kPlanTaps));
  launch.blockDim = dim3(32, taps, segments > 2 * kLoads ? kMostSumParts : 1);
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, dcn_wgrad_sum_kernel<Element>, params);
}

}  // namespace

cudaError_t launch_wgrad_sum(const WgradParams& params, FusedMath math, cudaStream_t stream) {
  return with_math(math, [&](auto arithmetic) {
    return launch<typename decltype(arithmetic)::Element>(params, stream);
  });
}

}  // namespace dcn
