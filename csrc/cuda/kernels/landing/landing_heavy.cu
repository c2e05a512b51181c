// Sums of heavy bins, 128 bytes of channels at a time: an item of work.
//
//   grid   x: clusters
//          z: the CTAs of a cluster. They share an item whose bin is long; others have one each
#include <algorithm>

#include "../ptx_cluster.cuh"
#include "landing_heavy_sum.cuh"

namespace dcn {

constexpr int kHeavyBlocks = 4;  // of a multiprocessor
constexpr int kClusterCtas = 8;
constexpr int32_t kLongBin = 2048;  // records
static_assert(kClusterCtas <= 32 && (kClusterCtas & (kClusterCtas - 1)) == 0);

template <int kChannels>
struct HeavyShared {
  uint32_t bitmap[kBitmapPixels / 32];
  WarpBatch batch[kHeavyWarps];
  float4 of_warp[kHeavyWarps][kChannels];  // for each channel the sums of four corners
  float4 of_part[kChannels];
  uint32_t ends[2];
};

// Adds up the sums of the warps, and of the cluster's CTAs if they share the bin, which each have a
// share of the channels then.
template <int kChannels>
__device__ __forceinline__ void store_sums(const LandingWork& work, const HeavyItem& item,
                                           HeavyShared<kChannels>& shared) {
  const int32_t channels = work.call.grad_channels;
  float* const to = work.heavy_rows + int64_t{item.number} * 4 * channels;
  const auto store = [&](int32_t channel, const float4& sum) {
    channel += item.channel_block * kChannels;
    if (channel >= channels) return;
    to[channel] = sum.x;
    to[channels + channel] = sum.y;
    to[2 * channels + channel] = sum.z;
    to[3 * channels + channel] = sum.w;
  };
  const auto add = [](float4& total, const float4& more) {
    total.x += more.x;
    total.y += more.y;
    total.z += more.z;
    total.w += more.w;
  };
  __syncthreads();
  for (int32_t channel = threadIdx.x; channel < kChannels; channel += kHeavyThreads) {
    float4 total = shared.of_warp[0][channel];
#pragma unroll
    for (int w = 1; w < kHeavyWarps; ++w) add(total, shared.of_warp[w][channel]);
    if (item.parts == 1) {
      store(channel, total);
    } else {
      shared.of_part[channel] = total;
    }
  }
  if (item.parts > 1) {
    constexpr int32_t kEach = kChannels / kClusterCtas;
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (threadIdx.x < kEach) {
      const int32_t channel = item.part * kEach + threadIdx.x;
      const uint32_t own = ptx::shared_address(&shared.of_part[channel]);
      float4 of_part[kClusterCtas];
#pragma unroll
      for (int p = 0; p < kClusterCtas; ++p) {
        of_part[p] = ptx::load_of_cluster(ptx::cluster_address(own, p));
      }
#pragma unroll
      for (int p = 1; p < kClusterCtas; ++p) add(of_part[0], of_part[p]);
      store(channel, of_part[0]);
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();  // the others have read
  }
  __syncthreads();
}

template <typename Element>
__device__ __forceinline__ void sum_item(const LandingWork& work, const HeavyItem& item,
                                         HeavyShared<kRowLanes * HeavySum<Element>::kVec>& shared) {
  constexpr int kVec = HeavySum<Element>::kVec, kBlockChannels = kRowLanes * kVec;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Plane plane = plane_at(work, work.plane_starts.quotient(item.bin.bin));
  const uint32_t first_row = plane.image * work.pixels.value;
  const int32_t channel = item.channel_block * kBlockChannels + lane % kRowLanes * kVec;
  // A lane without channels reads the first ones.
  const Element* const grad =
      static_cast<const Element*>(work.call.grad) +
      int64_t{work.call.first_image + plane.image} * work.pixels.value * work.call.grad_channels +
      (channel < work.call.grad_channels ? channel : 0);
  HeavySum<Element> sum(work, plane, shared.batch[warp], grad);
  sum_rows(work, item, first_row, shared.bitmap, shared.ends, sum);
#pragma unroll
  for (int step = kRowLanes; step < 32; step *= 2) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        sum.sum[corner][j] += __shfl_xor_sync(~0u, sum.sum[corner][j], step);
      }
    }
  }
  if (lane < kRowLanes) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      shared.of_warp[warp][lane * kVec + j] = {sum.sum[0][j], sum.sum[1][j], sum.sum[2][j],
                                               sum.sum[3][j]};
    }
  }
  store_sums(work, item, shared);
}

template <typename Element>
__global__ void __launch_bounds__(kHeavyThreads, kHeavyBlocks)
    dcn_dgrad_landing_heavy_kernel(const __grid_constant__ LandingWork work) {
  constexpr int kBlockChannels = kRowLanes * HeavySum<Element>::kVec;
  extern __shared__ uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<HeavyShared<kBlockChannels>*>(shared_memory);
  const uint32_t channel_blocks = (work.call.grad_channels + kBlockChannels - 1) / kBlockChannels;
  const uint32_t items = *work.call.heavy_count * channel_blocks;
  // First the long bins, a cluster's CTAs together, then each CTA the others.
#pragma unroll 1
  for (int together = 1; together >= 0; --together) {
    const uint32_t stride = together ? gridDim.x : gridDim.x * kClusterCtas;
    const uint32_t own = together ? blockIdx.x : blockIdx.x * kClusterCtas + blockIdx.z;
#pragma unroll 1
    for (uint32_t base = own; base < items; base += 32 * stride) {
      const uint32_t of_lane = base + threadIdx.x % 32 * stride;
      bool chosen = false;
      if (of_lane < items) {
        const HeavyBin& bin = work.heavy_bins[of_lane / channel_blocks];
        chosen = (bin.end - bin.begin > kLongBin) == (together != 0);
      }
#pragma unroll 1
      for (uint32_t left = __ballot_sync(~0u, chosen); left; left &= left - 1) {
        const uint32_t index = base + (__ffs(left) - 1) * stride;
        const uint32_t number = index / channel_blocks;
        sum_item<Element>(work,
                          {number, index - number * channel_blocks, work.heavy_bins[number],
                           together ? blockIdx.z : 0, together ? uint32_t{kClusterCtas} : 1},
                          shared);
      }
    }
  }
}

namespace {

template <typename Element>
cudaError_t launch(const LandingWork& work, int64_t most_heavy_bins, cudaStream_t stream) {
  constexpr int64_t kMostClusters = 132 * kHeavyBlocks / kClusterCtas;
  constexpr int kBlockChannels = kRowLanes * HeavySum<Element>::kVec;
  constexpr auto kKernel = dcn_dgrad_landing_heavy_kernel<Element>;
  const int64_t items = most_heavy_bins * tiles_of(work.call.grad_channels, kBlockChannels);
  const cudaError_t error = set_up_kernel<kKernel>(sizeof(HeavyShared<kBlockChannels>));
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = kClusterCtas;
  cudaLaunchConfig_t launch = {};
  launch.gridDim =
      dim3(static_cast<unsigned>(std::min(tiles_of(items, kClusterCtas), kMostClusters)), 1,
           kClusterCtas);
  launch.blockDim = dim3(kHeavyThreads);
  launch.dynamicSmemBytes = sizeof(HeavyShared<kBlockChannels>);
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  return cudaLaunchKernelEx(&launch, kKernel, work);
}

}  // namespace

cudaError_t launch_landing_heavy(const LandingWork& work, int64_t most_heavy_bins,
                                 cudaStream_t stream) {
  if (most_heavy_bins == 0) return cudaSuccess;
  switch (work.call.grad_dtype) {
    case Dtype::kF32:
      return launch<float>(work, most_heavy_bins, stream);
    case Dtype::kF16:
      return launch<__half>(work, most_heavy_bins, stream);
    case Dtype::kBF16:
      return launch<__nv_bfloat16>(work, most_heavy_bins, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace dcn
