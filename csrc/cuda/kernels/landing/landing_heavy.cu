// Sums of heavy bins: a CTA for each heavy bin and 128 bytes of channels.
//
// All rows of a bin are of one image. A bitmap of them is their order, whatever the order of the
// bin's records: warps take its words by turns, and lists the pixels that they find 32 at a time.
// While the gradient of one such batch is summed, the coordinates of the next are on their way.
#include <algorithm>

#include "landing_work.cuh"

namespace dcn {
namespace {

constexpr int kHeavyThreads = 512;
constexpr int kHeavyWarps = kHeavyThreads / 32;
constexpr int kRowLanes = 8;  // 128 bytes of a row
constexpr int kGroups = 32 / kRowLanes;
constexpr int kInFlight = 4;      // rows of a lane
constexpr int kWindow = 1 << 16;  // pixels of the bitmap

// Of a warp: pixels that were found, and a batch whose weights are known.
struct WarpBatch {
  float4 weight[32];
  uint32_t pixel[32];
  uint32_t found[64];
};
struct HeavyShared {
  uint32_t rows[kWindow / 32];
  WarpBatch batch[kHeavyWarps];
  uint32_t first, last;  // pixel of the bin
};

// A lane's sums, for the four corners of a vector of channels, of the rows that its warp finds.
template <typename Element>
class HeavySum {
 public:
  static constexpr int kVec = kVectorBytes / sizeof(Element);

  __device__ __forceinline__ HeavySum(const LandingWork& work, const Plane& plane, WarpBatch& batch,
                                      const Element* grad)
      : work_(work), plane_(plane), batch_(batch), grad_(grad), lane_(threadIdx.x % 32) {}

  // Those of a word of the bitmap.
  __device__ __forceinline__ void find(uint32_t word, uint32_t first_pixel) {
    if (word >> lane_ & 1u) {
      batch_.found[found_ + __popc(word & ((1u << lane_) - 1u))] = first_pixel + lane_;
    }
    __syncwarp();
    found_ += __popc(word);
    if (found_ < 32) return;
    plan(32);
    found_ -= 32;
    const uint32_t kept = batch_.found[32 + lane_];
    __syncwarp();
    batch_.found[lane_] = kept;
  }
  __device__ __forceinline__ void finish() {
    __syncwarp();
    plan(found_);
    add();
  }

  float sum[4][kVec] = {};

 private:
  // The first pixels that were found, after the batch before them.
  __device__ __forceinline__ void plan(int pixels) {
    const uint32_t pixel = batch_.found[min(lane_, max(pixels, 1) - 1)];
    OutputPixel at{work_.call.first_image + plane_.image, 0, 0};
    OffsetBits bits{};
    float mask = 0.f;
    if (lane_ < pixels) {
      at = output_pixel(work_, plane_, pixel);
      bits = load_offset(work_, plane_, at);
      mask = mask_at(work_, plane_, at);
    }
    add();
    const Sample<float> sample = sample_at(work_, point_at(work_, plane_, at, bits));
    batch_.pixel[lane_] = pixel;
    batch_.weight[lane_] = {mask * sample.weight(0), mask * sample.weight(1),
                            mask * sample.weight(2), mask * sample.weight(3)};
    planned_ = pixels;
    __syncwarp();
  }

  __device__ __forceinline__ void add() {
#pragma unroll 1
    for (int first = lane_ / kRowLanes; first < planned_; first += kInFlight * kGroups) {
      Vector<Element, kVec> value[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int row = first + i * kGroups;
        if (row < planned_) {
          value[i] = *reinterpret_cast<const Vector<Element, kVec>*>(
              grad_ + int64_t{batch_.pixel[row]} * work_.call.grad_channels);
        }
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int row = first + i * kGroups;
        if (row >= planned_) break;
        const float4 weight = batch_.weight[row];
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          const float v = widen(value[i].lane[j]);
          sum[0][j] += weight.x * v;
          sum[1][j] += weight.y * v;
          sum[2][j] += weight.z * v;
          sum[3][j] += weight.w * v;
        }
      }
    }
    __syncwarp();
  }

  const LandingWork& work_;
  const Plane& plane_;
  WarpBatch& batch_;
  const Element* const grad_;
  const int lane_;
  int found_ = 0, planned_ = 0;
};

// The first and last pixel of the bin.
__device__ __forceinline__ void find_ends(const LandingWork& work, const HeavyBin& bin,
                                          uint32_t first_row, HeavyShared& shared) {
  if (threadIdx.x == 0) shared.first = ~0u, shared.last = 0;
  __syncthreads();
  uint32_t first = ~0u, last = 0;
  for (int32_t i = bin.begin + threadIdx.x; i < bin.end; i += kHeavyThreads) {
    const uint32_t pixel = work.records[i].row - first_row;
    first = min(first, pixel);
    last = max(last, pixel);
  }
  first = __reduce_min_sync(~0u, first);
  last = __reduce_max_sync(~0u, last);
  if (threadIdx.x % 32 == 0) {
    atomicMin(&shared.first, first);
    atomicMax(&shared.last, last);
  }
  __syncthreads();
}

template <typename Element>
__device__ __forceinline__ void sum_rows(const LandingWork& work, const HeavyBin& bin,
                                         uint32_t first_row, HeavyShared& shared,
                                         HeavySum<Element>& sum) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t last = shared.last;
  for (uint32_t window = shared.first / 32 * 32; window <= last; window += kWindow) {
    const uint32_t words = min(last - window + 32, uint32_t{kWindow}) / 32;
    for (uint32_t i = threadIdx.x; i < words; i += kHeavyThreads) shared.rows[i] = 0;
    __syncthreads();
    for (int32_t i = bin.begin + threadIdx.x; i < bin.end; i += kHeavyThreads) {
      const uint32_t at = work.records[i].row - first_row - window;
      if (at < kWindow) atomicOr(shared.rows + at / 32, 1u << at % 32);
    }
    __syncthreads();
    for (uint32_t base = warp; base < words; base += 32 * kHeavyWarps) {
      const uint32_t own = base + lane * kHeavyWarps;
      const uint32_t word = own < words ? shared.rows[own] : 0;
      for (uint32_t filled = __ballot_sync(~0u, word != 0); filled; filled &= filled - 1) {
        const int from = __ffs(filled) - 1;
        sum.find(__shfl_sync(~0u, word, from), window + (base + from * kHeavyWarps) * 32);
      }
    }
    __syncthreads();
  }
  sum.finish();
}

template <typename Element>
__global__ void __launch_bounds__(kHeavyThreads, 1)
    dcn_dgrad_landing_heavy_kernel(const __grid_constant__ LandingWork work,
                                   uint32_t channel_blocks) {
  constexpr int kVec = HeavySum<Element>::kVec, kBlockChannels = kRowLanes * kVec;
  __shared__ HeavyShared shared;
  __shared__ float sums[kHeavyWarps][kBlockChannels];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t channels = work.call.grad_channels;
  const uint32_t items = *work.call.heavy_count * channel_blocks;
  for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
    const uint32_t heavy = item / channel_blocks;
    const HeavyBin bin = work.heavy_bins[heavy];
    const Plane plane = plane_at(work, work.plane_starts.quotient(bin.bin));
    const uint32_t first_row = plane.image * work.pixels.value;
    const int32_t first_channel = (item - heavy * channel_blocks) * kBlockChannels;
    const int32_t channel = first_channel + lane % kRowLanes * kVec;
    // A lane without channels reads the first ones.
    const Element* const grad =
        static_cast<const Element*>(work.call.grad) +
        int64_t{work.call.first_image + plane.image} * work.pixels.value * channels +
        (channel < channels ? channel : 0);
    find_ends(work, bin, first_row, shared);
    HeavySum<Element> sum(work, plane, shared.batch[warp], grad);
    sum_rows(work, bin, first_row, shared, sum);

#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        float of_warp = sum.sum[corner][j];
#pragma unroll
        for (int step = kRowLanes; step < 32; step *= 2) {
          of_warp += __shfl_xor_sync(~0u, of_warp, step);
        }
        if (lane < kRowLanes) sums[warp][lane * kVec + j] = of_warp;
      }
      __syncthreads();
      const int32_t c = threadIdx.x;
      if (c < kBlockChannels && first_channel + c < channels) {
        float total = 0.f;
#pragma unroll
        for (int w = 0; w < kHeavyWarps; ++w) total += sums[w][c];
        work.heavy_rows[(int64_t{heavy} * 4 + corner) * channels + first_channel + c] = total;
      }
      __syncthreads();
    }
  }
}

template <typename Element>
cudaError_t launch(const LandingWork& work, int64_t most_heavy_bins, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 264;
  const int64_t channel_blocks =
      tiles_of(work.call.grad_channels * sizeof(Element), kRowLanes * kVectorBytes);
  constexpr auto kKernel = dcn_dgrad_landing_heavy_kernel<Element>;
  const cudaError_t error = set_up_kernel<kKernel>(0);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t launch = {};
  launch.gridDim =
      dim3(static_cast<unsigned>(std::min(most_heavy_bins * channel_blocks, kMostBlocks)));
  launch.blockDim = dim3(kHeavyThreads);
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, kKernel, work, static_cast<uint32_t>(channel_blocks));
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
