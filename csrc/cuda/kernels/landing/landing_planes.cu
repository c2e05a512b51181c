// Landing lists of planes whose samples are counted in 16 bits: one kernel.
//
//   grid   the planes, each cut in bands of bins
//   CTA    walks all samples of the plane, and takes those of its band: counts them in shared
//          memory, and those of earlier bands in a register, which says where its records begin.
//          Counts to starts; then it lists the pixels of each bin in shared memory, in order of
//          arrival, for which it walks again where there is no room to keep each sample's bin.
//          A thread for each listed pixel finds its place among those of its bin, and writes the
//          record there
#include "../fused/fused_math.cuh"
#include "../ograd/plane_samples.cuh"

namespace dcn {
namespace {

constexpr int kPlaneWarps = kPlaneThreads / 32;

// Two 16-bit numbers in each word of shared memory.
struct Halves {
  uint32_t* words;
  uint32_t address;

  __device__ __forceinline__ explicit Halves(uint32_t* shared)
      : words(shared), address(ptx::shared_address(shared)) {
    asm volatile("" : "+r"(address));  // kept: finding it again takes five instructions
  }

  __device__ __forceinline__ static int shift(uint32_t bin) { return bin % 2 * 16; }
  __device__ __forceinline__ uint32_t operator[](uint32_t bin) const {
    return words[bin / 2] >> shift(bin) & 0xffffu;
  }
  // Add 1 where `exists`, without a branch; `increment` returns what was there.
  __device__ __forceinline__ void count(uint32_t bin, bool exists) const {
    ptx::shared_add_if(exists, word_of(bin), 1u << shift(bin));
  }
  __device__ __forceinline__ uint32_t increment(uint32_t bin, bool exists) const {
    return ptx::shared_fetch_add_if(exists, word_of(bin), 1u << shift(bin)) >> shift(bin) & 0xffffu;
  }

 private:
  __device__ __forceinline__ uint32_t word_of(uint32_t bin) const {
    return address + (bin * 2 & ~3u);
  }
};

// Counts of `bins` bins to where their records begin, from 0 on, and to their starts. Each warp has
// consecutive words.
__device__ __forceinline__ void scan_band(const LandingWork& work, Halves counts, uint32_t bins,
                                          uint32_t first_bin, uint32_t first_record,
                                          uint32_t (&warp_sum)[kPlaneWarps]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t rounds = ((bins + 1) / 2 + kPlaneThreads - 1) / kPlaneThreads;
  const uint32_t first_word = warp * rounds * 32 + lane;
  const uint32_t end = min(first_word - lane + rounds * 32, (bins + 1) / 2);
  uint32_t own = 0;
  for (uint32_t word = first_word; word < end; word += 32) {
    own += (counts.words[word] & 0xffffu) + (counts.words[word] >> 16);
  }
  own = __reduce_add_sync(~0u, own);
  if (lane == 0) warp_sum[warp] = own;
  __syncthreads();
  uint32_t total;
  uint32_t begin =
      __shfl_sync(~0u, scan_lanes(lane < kPlaneWarps ? warp_sum[lane] : 0, lane, total), warp);
  for (uint32_t round = 0; round < rounds; ++round) {
    const uint32_t word = first_word + round * 32;
    const uint32_t pair = word < end ? counts.words[word] : 0;
    const uint32_t even = pair & 0xffffu, odd = pair >> 16;
    const uint32_t at = begin + scan_lanes(even + odd, lane, total);
    begin += total;
    if (word >= end) continue;
    counts.words[word] = at | (at + even) << 16;
    const uint32_t bin = first_bin + 2 * word;
    work.starts[bin] = start_of(first_record + at, even);
    if (2 * word + 1 < bins) work.starts[bin + 1] = start_of(first_record + at + even, odd);
  }
}

// In the share of shared memory that all kernels of a call ask for.
constexpr int kMostKeepingBytes = 160 << 10;
constexpr uint16_t kNone = 0xffff;
static_assert(kMostBandBins < kNone);
// A multiple of vectors.
DCN_HOST_DEVICE uint32_t cursor_words(uint32_t bins) { return (bins + 7) / 8 * 4; }
DCN_HOST_DEVICE uint32_t kept_bins(uint32_t pixels) { return (pixels + 7) / 8 * 8; }

}  // namespace

template <typename Offset, bool kEven>
__global__ void __launch_bounds__(kPlaneThreads, 1)
    dcn_dgrad_landing_planes_kernel(const __grid_constant__ LandingWork work) {
  extern __shared__ uint8_t shared_memory[];
  uint32_t* const shared_words = reinterpret_cast<uint32_t*>(shared_memory);
  __shared__ uint32_t warp_sum[kPlaneWarps], warp_before[kPlaneWarps];
  const Halves cursors{shared_words};
  // Of the listed samples; of all samples the bin in the band, or kNone, eight at a time.
  uint16_t* const kept = reinterpret_cast<uint16_t*>(shared_words + cursor_words(work.band_bins));
  uint16_t* const pixels = kept + (work.keeps_bins ? kept_bins(work.pixels.value) : 0);
  const Plane plane = plane_at(work, work.bands.quotient(blockIdx.x));
  const uint32_t band_begin = (blockIdx.x - plane.index * work.bands.value) * work.band_bins;
  const uint32_t plane_bins = work.plane_starts.value - 1;
  const uint32_t bins = min(work.band_bins, plane_bins - band_begin);
  const uint32_t first_bin = plane.index * work.plane_starts.value + band_begin;
  const PlaneSamples<Offset, kEven> samples(work, plane);
  samples.prefetch();
  if (blockIdx.x == 0 && threadIdx.x == 0) clear_no_record(work);
  for (uint32_t i = threadIdx.x; i < (bins + 1) / 2; i += kPlaneThreads) shared_words[i] = 0;
  if (work.keeps_bins) {
    for (uint32_t i = work.pixels.value + threadIdx.x; i < kept_bins(work.pixels.value); ++i) {
      kept[i] = kNone;
    }
  }
  __syncthreads();

  uint32_t before = 0;
  samples.walk([&](const PlaneSample(&sample)[kPlaneInFlight]) {
#pragma unroll
    for (int i = 0; i < kPlaneInFlight; ++i) {
      const uint32_t bin = sample[i].bin - band_begin;
      if (sample[i].bin < band_begin) ++before;
      cursors.count(bin, bin < bins);
      if (work.keeps_bins && sample[i].pixel < work.pixels.value) {
        kept[sample[i].pixel] = bin < bins ? static_cast<uint16_t>(bin) : kNone;
      }
    }
  });
  before = __reduce_add_sync(~0u, before);
  const int lane = threadIdx.x % 32;
  if (lane == 0) warp_before[threadIdx.x / 32] = before;
  __syncthreads();
  const uint32_t first_record = kFirstRecord + plane.index * work.pixels.value +
                                __reduce_add_sync(~0u, lane < kPlaneWarps ? warp_before[lane] : 0u);
  scan_band(work, cursors, bins, first_bin, first_record, warp_sum);
  __syncthreads();

  const auto list = [&](uint32_t bin, uint32_t pixel) {
    const uint32_t to = cursors.increment(bin, bin < bins);
    if (bin < bins) pixels[to] = static_cast<uint16_t>(pixel);
  };
  if (work.keeps_bins) {
    const uint4* const eights = reinterpret_cast<const uint4*>(kept);
    for (uint32_t i = threadIdx.x; i < kept_bins(work.pixels.value) / 8; i += kPlaneThreads) {
      const uint4 eight = eights[i];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint32_t pair = register_of(eight, k / 2);
        list(k % 2 ? pair >> 16 : pair & 0xffffu, 8 * i + k);
      }
    }
  } else {
    samples.walk([&](const PlaneSample(&sample)[kPlaneInFlight]) {
#pragma unroll
      for (int i = 0; i < kPlaneInFlight; ++i) list(sample[i].bin - band_begin, sample[i].pixel);
    });
  }
  __syncthreads();
  // A cursor is now where the next bin begins.
  bool heavy = false;
  const uint32_t count = cursors[bins - 1];
  samples.write(
      work.records + first_record, count, plane.image * work.pixels.value,
      [&](uint32_t i) { return pixels[i]; },
      [&](const PlaneSample(&sample)[kPlaneInFlight], uint32_t(&place)[kPlaneInFlight]) {
        uint32_t begin[kPlaneInFlight], others[kPlaneInFlight], most = 0;
#pragma unroll
        for (int i = 0; i < kPlaneInFlight; ++i) {
          const uint32_t bin = sample[i].bin - band_begin;
          begin[i] = bin == 0 ? 0 : cursors[bin - 1];
          others[i] = cursors[bin] - begin[i];
          const bool crowd = others[i] > kHeavyBin;
          heavy |= crowd;
          if (crowd) others[i] = 0;
          if (!crowd) place[i] = begin[i];
          most = max(most, others[i]);
        }
#pragma unroll 1
        for (uint32_t k = 0; k < most; ++k) {
#pragma unroll
          for (int i = 0; i < kPlaneInFlight; ++i) {
            if (k < others[i] && pixels[begin[i] + k] < sample[i].pixel) ++place[i];
          }
        }
      });
  heavy = __syncthreads_or(heavy);
  if (threadIdx.x == 0 && band_begin + bins == plane_bins) {
    work.starts[first_bin + bins] = first_record + count;
  }
  if (!heavy) return;
  for (uint32_t bin = threadIdx.x; bin < bins; bin += kPlaneThreads) {
    const uint32_t begin = bin == 0 ? 0 : cursors[bin - 1], end = cursors[bin];
    if (end - begin > kHeavyBin) {
      note_heavy(work, first_bin + bin, first_record + begin, end - begin);
    }
  }
}

namespace {

template <typename Offset, bool kEven>
cudaError_t launch_planes(LandingWork work, cudaStream_t stream) {
  constexpr auto kKernel = dcn_dgrad_landing_planes_kernel<Offset, kEven>;
  const auto bytes = [](uint32_t bins, uint32_t pixels, bool keeps) {
    return static_cast<int>(cursor_words(bins) * 4 + (keeps ? kept_bins(pixels) : 0) * 2 +
                            pixels * 2);
  };
  const cudaError_t error = set_up_kernel<kKernel>(bytes(kMostBandBins, kMostPlaneSamples, false));
  if (error != cudaSuccess) return error;
  work.keeps_bins = bytes(work.band_bins, work.pixels.value, true) <= kMostKeepingBytes;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(work.planes * work.bands.value);
  launch.blockDim = dim3(kPlaneThreads);
  launch.dynamicSmemBytes = bytes(work.band_bins, work.pixels.value, work.keeps_bins);
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, kKernel, work);
}

template <typename Offset>
cudaError_t launch(const LandingWork& work, cudaStream_t stream) {
  const bool even = work.offset_step >= 0 && work.mask_step >= 0;
  return even ? launch_planes<Offset, true>(work, stream)
              : launch_planes<Offset, false>(work, stream);
}

}  // namespace

cudaError_t launch_landing_planes(const LandingWork& work, cudaStream_t stream) {
  switch (work.call.offset.dtype) {
    case Dtype::kF32:
      return launch<float>(work, stream);
    case Dtype::kF16:
      return launch<__half>(work, stream);
    case Dtype::kBF16:
      return launch<__nv_bfloat16>(work, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace dcn
