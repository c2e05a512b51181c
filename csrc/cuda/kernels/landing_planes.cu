// Landing lists of planes whose samples are counted in 16 bits: one kernel.
//
//   grid   the planes, each cut in bands of bins
//   CTA    walks all samples of the plane twice, and takes those of its band. First it counts them
//          in shared memory, and those of earlier bands in a register: where its records begin.
//          Counts to starts; the second walk lists the pixels of each bin in shared memory, in
//          order of arrival, and a thread for each bin orders them. Then records are written, one
//          behind the other
#include "plane_samples.cuh"

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
    asm volatile(
        "{\n"
        ".reg .pred exists;\n"
        "setp.ne.s32 exists, %2, 0;\n"
        "@exists red.shared.add.u32 [%0], %1;\n"
        "}" ::"r"(word_of(bin)),
        "r"(1u << shift(bin)), "r"(static_cast<int>(exists))
        : "memory");
  }
  __device__ __forceinline__ uint32_t increment(uint32_t bin, bool exists) const {
    uint32_t before = 0;
    asm volatile(
        "{\n"
        ".reg .pred exists;\n"
        "setp.ne.s32 exists, %3, 0;\n"
        "@exists atom.shared.add.u32 %0, [%1], %2;\n"
        "}"
        : "+r"(before)
        : "r"(word_of(bin)), "r"(1u << shift(bin)), "r"(static_cast<int>(exists))
        : "memory");
    return before >> shift(bin) & 0xffffu;
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

__device__ __forceinline__ void order_pixels(uint16_t* pixels, uint32_t count) {
  for (uint32_t i = 1; i < count; ++i) {
    const uint16_t moved = pixels[i];
    uint32_t to = i;
    for (; to > 0 && pixels[to - 1] > moved; --to) pixels[to] = pixels[to - 1];
    pixels[to] = moved;
  }
}

template <typename Offset, bool kEven>
__global__ void __launch_bounds__(kPlaneThreads, 2)
    dcn_dgrad_landing_planes_kernel(const __grid_constant__ LandingWork work) {
  extern __shared__ uint32_t shared_words[];
  __shared__ uint32_t warp_sum[kPlaneWarps];
  __shared__ uint32_t before_band;
  const Halves cursors{shared_words};
  uint16_t* const pixels = reinterpret_cast<uint16_t*>(shared_words + (work.band_bins + 1) / 2);
  const Plane plane = plane_at(work, work.bands.quotient(blockIdx.x));
  const uint32_t band_begin = (blockIdx.x - plane.index * work.bands.value) * work.band_bins;
  const uint32_t plane_bins = work.plane_starts.value - 1;
  const uint32_t bins = min(work.band_bins, plane_bins - band_begin);
  const uint32_t first_bin = plane.index * work.plane_starts.value + band_begin;
  for (uint32_t i = threadIdx.x; i < (bins + 1) / 2; i += kPlaneThreads) shared_words[i] = 0;
  if (threadIdx.x == 0) before_band = 0;
  __syncthreads();

  const PlaneSamples<Offset, kEven> samples(work, plane);
  uint32_t before = 0;
  samples.walk([&](const PlaneSample(&sample)[kPlaneInFlight]) {
#pragma unroll
    for (int i = 0; i < kPlaneInFlight; ++i) {
      const uint32_t bin = sample[i].bin - band_begin;
      if (sample[i].bin < band_begin) ++before;
      cursors.count(bin, bin < bins);
    }
  });
  before = __reduce_add_sync(~0u, before);
  if (threadIdx.x % 32 == 0) atomicAdd(&before_band, before);
  __syncthreads();
  const uint32_t first_record = plane.index * work.pixels.value + before_band;
  scan_band(work, cursors, bins, first_bin, first_record, warp_sum);
  __syncthreads();

  samples.walk([&](const PlaneSample(&sample)[kPlaneInFlight]) {
#pragma unroll
    for (int i = 0; i < kPlaneInFlight; ++i) {
      const uint32_t bin = sample[i].bin - band_begin;
      const uint32_t to = cursors.increment(bin, bin < bins);
      if (bin < bins) pixels[to] = static_cast<uint16_t>(sample[i].pixel);
    }
  });
  __syncthreads();
  // A cursor is now where the next bin begins.
  bool heavy = false;
  for (uint32_t bin = threadIdx.x; bin < bins; bin += kPlaneThreads) {
    const uint32_t begin = bin == 0 ? 0 : cursors[bin - 1], count = cursors[bin] - begin;
    heavy |= count > kHeavyBin;
    if (count <= kHeavyBin) order_pixels(pixels + begin, count);
  }
  heavy = __syncthreads_or(heavy);
  const uint32_t count = cursors[bins - 1];
  samples.write(work.records + first_record, count, plane.image * work.pixels.value,
                [&](uint32_t i) { return pixels[i]; });
  if (threadIdx.x == 0 && band_begin + bins == plane_bins) {
    work.starts[first_bin + bins] = first_record + count;
  }
  if (!heavy) return;
  __syncthreads();
  for (uint32_t bin = threadIdx.x; bin < bins; bin += kPlaneThreads) {
    const uint32_t begin = bin == 0 ? 0 : cursors[bin - 1], end = cursors[bin];
    if (end - begin > kHeavyBin) {
      note_heavy(work, first_bin + bin, first_record + begin, end - begin);
    }
  }
}

template <typename Offset, bool kEven>
cudaError_t launch_planes(const LandingWork& work, cudaStream_t stream) {
  constexpr auto kKernel = dcn_dgrad_landing_planes_kernel<Offset, kEven>;
  const auto bytes = [](int64_t bins, int64_t pixels) {
    return static_cast<int>(tiles_of(bins, 2) * 4 + pixels * 2);
  };
  const cudaError_t error = set_up_kernel<kKernel>(bytes(kMostBandBins, kMostPlaneSamples));
  if (error != cudaSuccess) return error;
  const uint32_t blocks = work.planes * work.bands.value;
  kKernel<<<blocks, kPlaneThreads, bytes(work.band_bins, work.pixels.value), stream>>>(work);
  return cudaGetLastError();
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
