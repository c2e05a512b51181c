// Landing lists of planes whose samples are counted in 16 bits: one kernel.
//
//   grid   the planes, each cut in bands of bins
//   CTA    walks all samples of the plane twice, and takes those of its band. First it counts them
//          in shared memory, and those of earlier bands in a register: where its records begin.
//          Counts to starts; the second walk lists the pixels of each bin in shared memory, in
//          order of arrival, and a thread for each bin orders them. Then records are written, one
//          behind the other
#include "landing_work.cuh"
#include "ptx_sm80.cuh"

namespace dcn {
namespace {

constexpr int kPlaneThreads = 512;
constexpr int kPlaneWarps = kPlaneThreads / 32;
constexpr int kInFlight = 4;  // samples of a thread

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
  // Adds 1 where `exists`, without a branch; increment_of returns what was there, or anything.
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

// A sample's pixel is its place in the plane.
struct PlaneSample {
  uint32_t pixel, bin;  // bin: where it lands, within the plane
};

// The samples of a plane, whose offsets are `Offset` in memory: what make_sample (bilinear.h) says,
// without a branch and without conversions, which are slow: what a sample costs is instructions.
// kEven: pixels of a plane lie evenly in memory. Floors are taken as in make_paired_sample.
template <typename Offset, bool kEven>
class PlaneSamples {
 public:
  __device__ __forceinline__ PlaneSamples(const LandingWork& work, const Plane& plane)
      : work_(work),
        origin_y_(work.call.shape.origin_y(0, plane.r)),
        origin_x_(work.call.shape.origin_x(0, plane.s)),
        per_column_(1.f / work.call.shape.Q),
        row_bins_(work.call.shape.W + 1),
        first_bin_((1 - kFloorBits) * (row_bins_ + 1)),
        offset_(first_of(work.call.offset, work, plane, 2 * plane.map)),
        mask_(first_of(work.call.mask, work, plane, plane.map)) {}

  // Calls take(samples) for those of each thread, kInFlight at a time; beyond the last they have no
  // bin.
  template <class Take>
  __device__ __forceinline__ void walk(Take take) const {
    const uint32_t pixels = work_.pixels.value;
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < pixels; first += kPlaneThreads * kInFlight) {
      Loaded loaded[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        loaded[i] = load(min(first + i * kPlaneThreads, pixels - 1));
      }
      PlaneSample sample[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        sample[i].pixel = first + i * kPlaneThreads;
        sample[i].bin = bin_of(point_of(loaded[i]), sample[i].pixel < pixels);
      }
      take(sample);
    }
  }

  // Writes the records of the pixels that pixel_of(0), pixel_of(1), ... say.
  template <class PixelOf>
  __device__ __forceinline__ void write(LandingRecord* records, uint32_t count, uint32_t first_row,
                                        PixelOf pixel_of) const {
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < count; first += kPlaneThreads * kInFlight) {
      Loaded loaded[kInFlight];
      uint32_t pixel[kInFlight], mask[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        pixel[i] = pixel_of(min(first + i * kPlaneThreads, count - 1));
        loaded[i] = load(pixel[i]);
        mask[i] = load_mask(pixel[i], loaded[i].p);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const Point at = point_of(loaded[i]);
        if (first + i * kPlaneThreads >= count) break;
        records[first + i * kPlaneThreads] = {first_row + pixel[i], at.y, at.x, mask_of(mask[i])};
      }
    }
  }

 private:
  static constexpr float kFloor = 12582912.f;
  static constexpr uint32_t kFloorBits = 0x4B400000;

  struct Loaded {
    float p, q;  // of the pixel
    Offset y, x;
  };

  static __device__ __forceinline__ int64_t bytes_of(const SamplingMap& map, int64_t values) {
    return values * (map.dtype == Dtype::kF32 ? 4 : 2);
  }
  static __device__ __forceinline__ const uint8_t* first_of(const SamplingMap& map,
                                                            const LandingWork& work,
                                                            const Plane& plane, int32_t channel) {
    const OutputPixel first{work.call.first_image + plane.image, 0, 0};
    return static_cast<const uint8_t*>(map.data) + bytes_of(map, map_index(map, first, channel));
  }
  // The value at a pixel of row p, of a map's plane that begins at `first`.
  __device__ __forceinline__ const uint8_t* value_at(const SamplingMap& map, int32_t step,
                                                     const uint8_t* first, uint32_t pixel,
                                                     float p) const {
    if constexpr (kEven) return ptx::step_ahead(first, static_cast<int32_t>(pixel), step);
    const auto row = static_cast<int32_t>(p);
    const int32_t column = static_cast<int32_t>(pixel) - row * work_.call.shape.Q;
    return first + bytes_of(map, int64_t{row} * map.stride_h + int64_t{column} * map.stride_w);
  }

  // There are fewer than 2^16 pixels, so that a quotient of floats is exact enough.
  __device__ __forceinline__ Loaded load(uint32_t pixel) const {
    const SamplingMap& map = work_.call.offset;
    const float place = __uint_as_float(0x4B000000 | pixel) - 8388608.f;
    const float p = __fadd_rd(fmaf(place, per_column_, 0.5f * per_column_), kFloor) - kFloor;
    const auto* from =
        reinterpret_cast<const Offset*>(value_at(map, work_.offset_step, offset_, pixel, p));
    return {p, fmaf(-p, work_.call.shape.Q, place), __ldg(from), __ldg(from + map.stride_c)};
  }
  __device__ __forceinline__ Point point_of(const Loaded& loaded) const {
    const ConvShape& shape = work_.call.shape;
    return {fmaf(loaded.p, shape.stride_h, origin_y_) + widen(loaded.y),
            fmaf(loaded.q, shape.stride_w, origin_x_) + widen(loaded.x)};
  }
  __device__ __forceinline__ uint32_t load_mask(uint32_t pixel, float p) const {
    const SamplingMap& map = work_.call.mask;
    if (map.data == nullptr) return 0;
    return load_bits({value_at(map, work_.mask_step, mask_, pixel, p), map.dtype}, 0);
  }
  __device__ __forceinline__ float mask_of(uint32_t bits) const {
    return work_.call.mask.data == nullptr ? 1.f : value_of(work_.call.mask, bits);
  }
  // (y0 + 1) * (W + 1) + x0 + 1.
  __device__ __forceinline__ uint32_t bin_of(Point at, bool exists) const {
    const ConvShape& shape = work_.call.shape;
    const bool inside =
        exists & (at.y > -1.f) & (at.y < shape.H) & (at.x > -1.f) & (at.x < shape.W);
    const uint32_t bin = __float_as_uint(__fadd_rd(at.y, kFloor)) * row_bins_ +
                         __float_as_uint(__fadd_rd(at.x, kFloor)) + first_bin_;
    return inside ? bin : kNoBin;
  }

  const LandingWork& work_;
  const float origin_y_, origin_x_, per_column_;
  const uint32_t row_bins_, first_bin_;
  const uint8_t *const offset_, *const mask_;  // of the first sample
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
  samples.walk([&](const PlaneSample(&sample)[kInFlight]) {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
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

  samples.walk([&](const PlaneSample(&sample)[kInFlight]) {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
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
