// Landing lists of planes whose samples are counted in 16 bits: one kernel.
//
//   grid   the planes, each cut in bands of bins
//   CTA    walks all samples of the plane twice, and takes those of its band. First it counts them
//          in shared memory, and those of earlier bands in a register: where its records begin.
//          Counts to starts; the second walk puts each record where its bin's cursor is, so records
//          of a bin lie in order of arrival, until a thread orders them
//
// One launch instead of five: 12 us instead of 21 for maps of 32 x 32 on an H200, 24 instead of 40
// for eight of 64 x 64. From 128 x 128 on both take the same, 34 us for two of them.
#include "landing_work.cuh"

namespace dcn {
namespace {

constexpr int kPlaneThreads = 512;
constexpr int kPlaneWarps = kPlaneThreads / 32;
constexpr int kInFlight = 4;  // samples of a thread

// Two 16-bit numbers in each word.
struct Halves {
  uint32_t* words;

  __device__ __forceinline__ static int shift(uint32_t bin) { return bin % 2 * 16; }
  __device__ __forceinline__ uint32_t operator[](uint32_t bin) const {
    return words[bin / 2] >> shift(bin) & 0xffffu;
  }
  __device__ __forceinline__ uint32_t increment(uint32_t bin) const {
    return atomicAdd(words + bin / 2, 1u << shift(bin)) >> shift(bin) & 0xffffu;
  }
};

struct PlaneSample {
  int2 pixel;    // (p, q)
  uint32_t bin;  // where it lands, within the plane
  float y, x;    // coordinates
};

// A walk over the samples of a plane, whose offsets are `Offset` in memory: what make_sample
// (bilinear.h) says, without a branch and without conversions, which are slow. A float from 2^23 on
// is its integer's bits; floors are taken as in make_paired_sample.
template <typename Offset>
class PlaneWalk {
 public:
  __device__ __forceinline__ PlaneWalk(const LandingWork& work, const Plane& plane)
      : work_(work),
        origin_y_(work.call.shape.origin_y(0, plane.r)),
        origin_x_(work.call.shape.origin_x(0, plane.s)),
        offset_(static_cast<const Offset*>(work.call.offset.data) +
                map_index(work.call.offset, {work.call.first_image + plane.image, 0, 0},
                          2 * plane.map)),
        mask_(map_index(work.call.mask, {work.call.first_image + plane.image, 0, 0}, plane.map)) {}

  // Calls take(first, samples) for those of each thread, kInFlight at a time, which are pixels
  // first + i * kPlaneThreads; beyond the last pixel they have no bin.
  template <class Take>
  __device__ __forceinline__ void walk(Take take) const {
    const SamplingMap& map = work_.call.offset;
    const uint32_t pixels = work_.pixels.value;
    for (uint32_t first = threadIdx.x; first < pixels; first += kPlaneThreads * kInFlight) {
      PlaneSample sample[kInFlight];
      Offset y[kInFlight], x[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        sample[i] = place(min(first + i * kPlaneThreads, pixels - 1));
        const Offset* from = offset_ + index_of(map, sample[i].pixel);
        y[i] = __ldg(from);
        x[i] = __ldg(from + map.stride_c);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        land(sample[i], value_of(map, y[i]), value_of(map, x[i]));
        if (first + i * kPlaneThreads >= pixels) sample[i].bin = kNoBin;
      }
      take(first, sample);
    }
  }

  __device__ __forceinline__ uint32_t load_mask(const PlaneSample& sample) const {
    const SamplingMap& map = work_.call.mask;
    return map.data == nullptr ? 0 : load_bits(map, mask_ + index_of(map, sample.pixel));
  }
  __device__ __forceinline__ LandingRecord record(uint32_t row, const PlaneSample& sample,
                                                  uint32_t mask) const {
    const SamplingMap& map = work_.call.mask;
    return {row, sample.y, sample.x, map.data == nullptr ? 1.f : value_of(map, mask)};
  }

 private:
  static constexpr float kFloor = 12582912.f;
  static constexpr uint32_t kFloorBits = 0x4B400000;

  static __device__ __forceinline__ int64_t index_of(const SamplingMap& map, int2 pixel) {
    return int64_t{pixel.x} * map.stride_h + int64_t{pixel.y} * map.stride_w;
  }
  static __device__ __forceinline__ float whole(uint32_t number) {
    return __uint_as_float(0x4B000000 | number) - 8388608.f;
  }
  __device__ __forceinline__ PlaneSample place(uint32_t pixel) const {
    const ConvShape& shape = work_.call.shape;
    const uint32_t p = work_.output_width.quotient(pixel);
    const uint32_t q = pixel - p * work_.output_width.value;
    PlaneSample sample;
    sample.pixel = {static_cast<int32_t>(p), static_cast<int32_t>(q)};
    sample.y = fmaf(whole(p), shape.stride_h, origin_y_);
    sample.x = fmaf(whole(q), shape.stride_w, origin_x_);
    return sample;
  }
  __device__ __forceinline__ void land(PlaneSample& sample, float dy, float dx) const {
    const ConvShape& shape = work_.call.shape;
    sample.y += dy;
    sample.x += dx;
    const uint32_t y0 = __float_as_uint(__fadd_rd(sample.y, kFloor)) - kFloorBits;
    const uint32_t x0 = __float_as_uint(__fadd_rd(sample.x, kFloor)) - kFloorBits;
    const bool inside =
        sample.y > -1.f && sample.y < shape.H && sample.x > -1.f && sample.x < shape.W;
    sample.bin = inside ? (y0 + 1) * (shape.W + 1) + x0 + 1 : kNoBin;
  }

  const LandingWork& work_;
  const float origin_y_, origin_x_;
  const Offset* const offset_;  // of the first sample
  const int64_t mask_;          // element of the first sample
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

template <typename Offset>
__global__ void __launch_bounds__(kPlaneThreads, 2)
    dcn_dgrad_landing_planes_kernel(const __grid_constant__ LandingWork work) {
  extern __shared__ uint32_t shared_words[];
  __shared__ uint32_t warp_sum[kPlaneWarps];
  __shared__ uint32_t before_band;
  const Halves cursors{shared_words};
  const Plane plane = plane_at(work, work.bands.quotient(blockIdx.x));
  const uint32_t band_begin = (blockIdx.x - plane.index * work.bands.value) * work.band_bins;
  const uint32_t plane_bins = work.plane_starts.value - 1;
  const uint32_t bins = min(work.band_bins, plane_bins - band_begin);
  const uint32_t first_bin = plane.index * work.plane_starts.value + band_begin;
  for (uint32_t i = threadIdx.x; i < (bins + 1) / 2; i += kPlaneThreads) shared_words[i] = 0;
  if (threadIdx.x == 0) before_band = 0;
  __syncthreads();

  const PlaneWalk<Offset> samples(work, plane);
  uint32_t before = 0;
  samples.walk([&](uint32_t, const PlaneSample(&sample)[kInFlight]) {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const uint32_t bin = sample[i].bin - band_begin;
      if (sample[i].bin < band_begin) ++before;
      if (bin < bins) cursors.increment(bin);
    }
  });
  before = __reduce_add_sync(~0u, before);
  if (threadIdx.x % 32 == 0) atomicAdd(&before_band, before);
  __syncthreads();
  const uint32_t first_record = plane.index * work.pixels.value + before_band;
  scan_band(work, cursors, bins, first_bin, first_record, warp_sum);
  __syncthreads();

  LandingRecord* const records = work.records + first_record;
  const uint32_t first_row = plane.image * work.pixels.value;
  samples.walk([&](uint32_t first, const PlaneSample(&sample)[kInFlight]) {
    uint32_t mask[kInFlight], at[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (sample[i].bin - band_begin < bins) mask[i] = samples.load_mask(sample[i]);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const uint32_t bin = sample[i].bin - band_begin;
      if (bin < bins) at[i] = cursors.increment(bin);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (sample[i].bin - band_begin >= bins) continue;
      const uint32_t row = first_row + first + i * kPlaneThreads;
      records[at[i]] = samples.record(row, sample[i], mask[i]);
    }
  });
  __syncthreads();
  // A cursor is now where the next bin begins.
  for (uint32_t bin = threadIdx.x; bin < bins; bin += kPlaneThreads) {
    const uint32_t begin = bin == 0 ? 0 : cursors[bin - 1], end = cursors[bin];
    order_bin(work, first_bin + bin, first_record + begin, end - begin);
    if (band_begin + bin + 1 == plane_bins) work.starts[first_bin + bins] = first_record + end;
  }
}

template <typename Offset>
cudaError_t launch(const LandingWork& work, cudaStream_t stream) {
  constexpr auto kKernel = dcn_dgrad_landing_planes_kernel<Offset>;
  const cudaError_t error = set_up_kernel<kKernel>(kMostBandBins * sizeof(uint16_t));
  if (error != cudaSuccess) return error;
  const uint32_t blocks = work.planes * work.bands.value;
  kKernel<<<blocks, kPlaneThreads, tiles_of(work.band_bins, 2) * sizeof(uint32_t), stream>>>(work);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_landing_planes(const LandingWork& work, cudaStream_t stream) {
  return work.call.offset.dtype == Dtype::kF32 ? launch<uint32_t>(work, stream)
                                               : launch<uint16_t>(work, stream);
}

}  // namespace dcn
