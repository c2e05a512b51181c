// Landing lists by a counting sort, for any distribution of samples in time linear in samples and
// bins, with the same bits each run:
//
//   count   each sample adds one to its bin, and keeps its place among the bin's arrivals
//   scan    counts to runs; heavy bins are numbered
//   fill    each sample's record goes to its place, which depends on the order of arrival
//   order   records of a bin by row, in place, a thread for each bin: there are few in each
//   heavy   a CTA sums up a heavy bin and a vector of channels for each of 8 lanes. A bitmap of the
//           rows in the bin, which all are of one image, is their order
//
// Only addresses depend on chance: the number of a heavy bin, and the places before they are
// ordered.
#include <algorithm>

#include "../../fast_divide.h"
#include "fused_params.h"
#include "kernel_setup.h"
#include "landing_lists.h"
#include "sampling.cuh"

namespace dcn {
namespace {

static_assert(sizeof(LandingRecord) == kLandingRecordBytes && sizeof(int2) == kLandingRunBytes);

struct HeavyBin {
  uint32_t bin;
  int32_t begin, end;  // of its records, which are in order of arrival
  int32_t unused;
};
static_assert(sizeof(HeavyBin) == kHeavyBinBytes);

struct ScanCounters {
  uint32_t tickets, heavy_bins;
};
static_assert(sizeof(ScanCounters) <= kScanCounterBytes);

// What the kernels take: the call, the parts of its workspace, and how to divide.
struct LandingWork {
  LandingParams call;
  uint32_t samples, bins;
  Divisor pixels, images, output_width, taps, kernel_width, plane_bins;
  int2* runs;
  HeavyBin* heavy_bins;
  void* heavy_rows;
  uint32_t* places;
  ScanCounters* counters;
  uint64_t* scan_states;
  LandingRecord* records;
  uint32_t* counts;
};

// The samples of a tap and offset group in one image, and their bins.
struct Plane {
  uint32_t index;
  int32_t image;  // of the chunk
  int32_t map, r, s;
};
__device__ __forceinline__ Plane plane_at(const LandingWork& work, uint32_t index) {
  const int32_t map = work.images.quotient(index);
  const int32_t tap = map - work.taps.quotient(map) * work.taps.value;
  const int32_t r = work.kernel_width.quotient(tap);
  return {index, static_cast<int32_t>(index - map * work.images.value), map, r,
          static_cast<int32_t>(tap - r * work.kernel_width.value)};
}

struct Landing {
  OutputPixel at;
  Sample<float> sample;

  __device__ __forceinline__ bool outside() const { return sample.corners == 0; }
  __device__ __forceinline__ uint32_t bin(const LandingWork& work, const Plane& plane) const {
    return plane.index * work.plane_bins.value + (sample.y0 + 1) * (work.call.shape.W + 1) +
           (sample.x0 + 1);
  }
};
__device__ __forceinline__ Landing landing(const LandingWork& work, const Plane& plane,
                                           uint32_t pixel) {
  const LandingParams& call = work.call;
  const ConvShape& shape = call.shape;
  const int32_t p = work.output_width.quotient(pixel);
  const OutputPixel at{call.first_image + plane.image, p,
                       static_cast<int32_t>(pixel - p * work.output_width.value)};
  const auto load = [&](int32_t channel) {
    return load_as<float>(call.offset.data, call.offset.dtype, map_index(call.offset, at, channel));
  };
  const float dy = load(2 * plane.map), dx = load(2 * plane.map + 1);
  return {at, make_sample(shape.origin_y(at.p, plane.r) + dy, shape.origin_x(at.q, plane.s) + dx,
                          shape.H, shape.W)};
}
__device__ __forceinline__ float mask_of(const LandingWork& work, const Plane& plane,
                                         OutputPixel at) {
  const SamplingMap& mask = work.call.mask;
  if (mask.data == nullptr) return 1.f;
  return load_as<float>(mask.data, mask.dtype, map_index(mask, at, plane.map));
}

constexpr int kSampleThreads = 256;

__global__ void __launch_bounds__(kSampleThreads)
    dcn_dgrad_landing_count_kernel(const LandingWork work) {
  const uint32_t sample = blockIdx.x * kSampleThreads + threadIdx.x;
  if (sample >= work.samples) return;
  const Plane plane = plane_at(work, work.pixels.quotient(sample));
  const Landing at = landing(work, plane, sample - plane.index * work.pixels.value);
  if (at.outside()) return;
  work.places[sample] = atomicAdd(work.counts + at.bin(work, plane), 1u);
}

// The sum of `value` over the lanes before this one, and of all lanes.
__device__ __forceinline__ uint32_t scan_lanes(uint32_t value, int lane, uint32_t& total) {
  uint32_t sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t before = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += before;
  }
  total = __shfl_sync(~0u, sum, 31);
  return sum - value;
}

constexpr int kScanThreads = 256;
constexpr int kThreadBins = kScanBins / kScanThreads;

// A CTA's state: its own sum, or that of all up to it, once they are known.
constexpr uint64_t kOwnSum = uint64_t{1} << 32, kWholeSum = uint64_t{2} << 32;

// What the CTAs before `tile` hold, asked by one warp: back from the last one to the first that
// knows the sum of all before it. Tickets are drawn in order, so those asked are running.
__device__ __forceinline__ uint32_t sum_before(const uint64_t* states, int32_t tile, int lane) {
  uint32_t sum = 0;
  for (int32_t last = tile - 1; last >= 0; last -= 32) {
    const int32_t asked = last - lane;
    uint64_t state = kWholeSum;
    if (asked >= 0) {
      do {
        state = *reinterpret_cast<const volatile uint64_t*>(states + asked);
      } while (state == 0);
    }
    const uint32_t whole = __ballot_sync(~0u, state >= kWholeSum);
    const int nearest = whole ? __ffs(whole) - 1 : 31;
    sum += __reduce_add_sync(~0u, lane <= nearest ? static_cast<uint32_t>(state) : 0u);
    if (whole) break;
  }
  return sum;
}

__global__ void __launch_bounds__(kScanThreads)
    dcn_dgrad_landing_scan_kernel(const LandingWork work) {
  __shared__ uint32_t warp_sum[kScanThreads / 32];
  __shared__ uint32_t shared_tile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) shared_tile = atomicAdd(&work.counters->tickets, 1u);
  __syncthreads();
  const uint32_t tile = shared_tile;
  const uint32_t first = tile * kScanBins + threadIdx.x * kThreadBins;
  uint32_t count[kThreadBins], own = 0;
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) {
    count[i] = first + i < work.bins ? work.counts[first + i] : 0;
    own += count[i];
  }
  uint32_t sum;
  uint32_t begin = scan_lanes(own, lane, sum);
  if (lane == 0) warp_sum[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const uint32_t of_warp = lane < kScanThreads / 32 ? warp_sum[lane] : 0;
    const uint32_t before_warp = scan_lanes(of_warp, lane, sum);
    volatile uint64_t* const state = work.scan_states + tile;
    if (lane == 0 && tile > 0) *state = kOwnSum | sum;
    const uint32_t before = sum_before(work.scan_states, tile, lane);
    if (lane == 0) *state = kWholeSum | (before + sum);
    if (lane < kScanThreads / 32) warp_sum[lane] = before + before_warp;
  }
  __syncthreads();
  begin += warp_sum[warp];
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) {
    if (first + i >= work.bins) break;
    const auto from = static_cast<int32_t>(begin), to = static_cast<int32_t>(begin + count[i]);
    int2 run{from, to};
    if (count[i] == 0) run = {0, 0};
    if (count[i] > kHeavyBin) {
      const uint32_t heavy = atomicAdd(&work.counters->heavy_bins, 1u);
      work.heavy_bins[heavy] = {first + i, from, to, 0};
      run.x = run.y = ~static_cast<int32_t>(heavy);
    }
    work.runs[first + i] = run;
    begin += count[i];
  }
}

__global__ void __launch_bounds__(kSampleThreads)
    dcn_dgrad_landing_fill_kernel(const LandingWork work) {
  const uint32_t sample = blockIdx.x * kSampleThreads + threadIdx.x;
  if (sample >= work.samples) return;
  const Plane plane = plane_at(work, work.pixels.quotient(sample));
  const uint32_t pixel = sample - plane.index * work.pixels.value;
  const Landing at = landing(work, plane, pixel);
  if (at.outside()) return;
  int32_t begin = work.runs[at.bin(work, plane)].x;
  if (begin < 0) begin = work.heavy_bins[~begin].begin;
  work.records[begin + work.places[sample]] = {plane.image * work.pixels.value + pixel,
                                               at.sample.ly, at.sample.lx,
                                               mask_of(work, plane, at.at)};
}

__global__ void __launch_bounds__(kSampleThreads)
    dcn_dgrad_landing_order_kernel(const LandingWork work) {
  const uint32_t bin = blockIdx.x * kSampleThreads + threadIdx.x;
  if (bin >= work.bins) return;
  const int2 run = work.runs[bin];
  LandingRecord* const record = work.records + run.x;
  const int32_t length = run.y - run.x;
  for (int32_t i = 1; i < length; ++i) {
    const LandingRecord moved = record[i];
    int32_t to = i;
    for (; to > 0 && record[to - 1].row > moved.row; --to) record[to] = record[to - 1];
    if (to < i) record[to] = moved;
  }
}

// Heavy bins: 8 warps, in each as many rows at a time as it has groups of lanes.
constexpr int kHeavyThreads = 256;
constexpr int kHeavyWarps = kHeavyThreads / 32;
constexpr int kLanes = 8;  // of a row: 128 bytes of its channels
constexpr int kGroups = 32 / kLanes;
constexpr int kWindow = 1 << 16;  // pixels of the bitmap

struct HeavyShared {
  uint32_t rows[kWindow / 32];
  // Of a warp: the pixels of a word of the bitmap and the weights of their corners.
  float4 weight[kHeavyWarps][32];
  uint32_t row[kHeavyWarps][32];
  int32_t first, last;  // pixel of the bin
};

// Adds up a vector of channels of the rows in one word of the bitmap, for the four corners.
template <typename Element, int kVec>
__device__ __forceinline__ void add_rows(const LandingWork& work, const Plane& plane,
                                         HeavyShared& shared, uint32_t word, uint32_t first_pixel,
                                         const Element* grad, float (&sum)[4][kVec]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (word >> lane & 1u) {
    const int place = __popc(word & ((1u << lane) - 1u));
    const Landing at = landing(work, plane, first_pixel + lane);
    const float mask = mask_of(work, plane, at.at);
    shared.row[warp][place] = first_pixel + lane;
    shared.weight[warp][place] = {mask * at.sample.weight(0), mask * at.sample.weight(1),
                                  mask * at.sample.weight(2), mask * at.sample.weight(3)};
  }
  __syncwarp();
  const int rows = __popc(word);
#pragma unroll 4
  for (int i = lane / kLanes; i < rows; i += kGroups) {
    const float4 weight = shared.weight[warp][i];
    const auto value = *reinterpret_cast<const Vector<Element, kVec>*>(
        grad + int64_t{shared.row[warp][i]} * work.call.grad_channels);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float v = widen(value.lane[j]);
      sum[0][j] += weight.x * v;
      sum[1][j] += weight.y * v;
      sum[2][j] += weight.z * v;
      sum[3][j] += weight.w * v;
    }
  }
  __syncwarp();
}

template <typename Element>
__global__ void __launch_bounds__(kHeavyThreads)
    dcn_dgrad_landing_heavy_kernel(const LandingWork work, uint32_t channel_blocks) {
  constexpr int kVec = kVectorBytes / sizeof(Element);
  __shared__ HeavyShared shared;
  __shared__ float sums[kHeavyWarps][kLanes * kVec];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t items = work.counters->heavy_bins * channel_blocks;
  for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
    const uint32_t heavy = item / channel_blocks;
    const HeavyBin bin = work.heavy_bins[heavy];
    const Plane plane = plane_at(work, work.plane_bins.quotient(bin.bin));
    const uint32_t image_row = plane.image * work.pixels.value;
    const int32_t first_channel = (item - heavy * channel_blocks) * kLanes * kVec;
    const int32_t channel = first_channel + lane % kLanes * kVec;
    const int32_t channels = work.call.grad_channels;
    // A lane without channels reads the first ones.
    const int32_t read_channel = channel < channels ? channel : 0;
    const Element* const grad =
        static_cast<const Element*>(work.call.grad) +
        (int64_t{work.call.first_image + plane.image} * work.pixels.value) * channels +
        read_channel;
    float sum[4][kVec] = {};

    if (threadIdx.x == 0) shared.first = work.pixels.value, shared.last = 0;
    __syncthreads();
    for (int32_t i = bin.begin + threadIdx.x; i < bin.end; i += kHeavyThreads) {
      const auto pixel = static_cast<int32_t>(work.records[i].row - image_row);
      atomicMin(&shared.first, pixel);
      atomicMax(&shared.last, pixel);
    }
    __syncthreads();
    const int32_t last = shared.last;
    for (int32_t window = shared.first / 32 * 32; window <= last; window += kWindow) {
      const int32_t words = min(last - window + 32, kWindow) / 32;
      for (int32_t i = threadIdx.x; i < words; i += kHeavyThreads) shared.rows[i] = 0;
      __syncthreads();
      for (int32_t i = bin.begin + threadIdx.x; i < bin.end; i += kHeavyThreads) {
        const uint32_t at = work.records[i].row - image_row - window;
        if (at < kWindow) atomicOr(shared.rows + at / 32, 1u << at % 32);
      }
      __syncthreads();
      // A warp takes every kHeavyWarps-th word, and finds those with rows 32 at a time.
      for (int32_t base = warp; base < words; base += 32 * kHeavyWarps) {
        const int32_t own = base + lane * kHeavyWarps;
        const uint32_t word = own < words ? shared.rows[own] : 0;
        for (uint32_t filled = __ballot_sync(~0u, word != 0); filled; filled &= filled - 1) {
          const int from = __ffs(filled) - 1;
          add_rows<Element>(work, plane, shared, __shfl_sync(~0u, word, from),
                            window + (base + from * kHeavyWarps) * 32, grad, sum);
        }
      }
      __syncthreads();
    }

#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        float of_warp = sum[corner][j];
#pragma unroll
        for (int step = kLanes; step < 32; step *= 2) {
          of_warp += __shfl_xor_sync(~0u, of_warp, step);
        }
        if (lane < kLanes) sums[warp][lane * kVec + j] = of_warp;
      }
      __syncthreads();
      const auto c = static_cast<int32_t>(threadIdx.x);
      if (c < kLanes * kVec && first_channel + c < channels) {
        float total = 0.f;
#pragma unroll
        for (int w = 0; w < kHeavyWarps; ++w) total += sums[w][c];
        narrow(total,
               static_cast<Element*>(
                   work.heavy_rows)[(int64_t{heavy} * 4 + corner) * channels + first_channel + c]);
      }
      __syncthreads();
    }
  }
}

LandingPlan plan_of(const LandingParams& params) {
  return landing_plan(params.shape, params.images, static_cast<int>(size_of(params.grad_dtype)),
                      params.grad_channels);
}

LandingWork work_of(const LandingParams& params, const LandingPlan& plan) {
  const ConvShape& shape = params.shape;
  auto* const bytes = static_cast<uint8_t*>(params.workspace);
  LandingWork work;
  work.call = params;
  work.samples = static_cast<uint32_t>(plan.samples);
  work.bins = static_cast<uint32_t>(plan.bins);
  work.pixels = Divisor(shape.output_pixels_per_image());
  work.images = Divisor(params.images);
  work.output_width = Divisor(shape.Q);
  work.taps = Divisor(shape.taps());
  work.kernel_width = Divisor(shape.S);
  work.plane_bins = Divisor((shape.H + 1) * (shape.W + 1));
  work.runs = reinterpret_cast<int2*>(bytes + plan.runs);
  work.heavy_bins = reinterpret_cast<HeavyBin*>(bytes + plan.heavy_bins);
  work.heavy_rows = bytes + plan.heavy_rows;
  work.places = reinterpret_cast<uint32_t*>(bytes + plan.heavy_rows);
  work.counters = reinterpret_cast<ScanCounters*>(bytes + plan.counters);
  work.scan_states = reinterpret_cast<uint64_t*>(bytes + plan.scan_states);
  work.records = reinterpret_cast<LandingRecord*>(bytes + plan.records);
  work.counts = reinterpret_cast<uint32_t*>(bytes + plan.records);
  return work;
}

// A grid of `blocks` CTAs.
template <auto kKernel, typename... Arguments>
cudaError_t launch(int64_t blocks, int threads, cudaStream_t stream, Arguments... arguments) {
  const cudaError_t error = set_up_kernel<kKernel>(0);
  if (error != cudaSuccess) return error;
  kKernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(arguments...);
  return cudaGetLastError();
}

template <typename Element>
cudaError_t launch_heavy(const LandingWork& work, const LandingPlan& plan, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 264;
  const int64_t channel_blocks =
      tiles_of(work.call.grad_channels * sizeof(Element), kLanes * kVectorBytes);
  const int64_t blocks = std::min(plan.most_heavy_bins * channel_blocks, kMostBlocks);
  if (blocks == 0) return cudaSuccess;
  return launch<dcn_dgrad_landing_heavy_kernel<Element>>(blocks, kHeavyThreads, stream, work,
                                                         static_cast<uint32_t>(channel_blocks));
}

}  // namespace

LandingLists landing_lists(const LandingParams& params) {
  const LandingWork work = work_of(params, plan_of(params));
  return {work.records, work.runs, work.heavy_rows};
}

cudaError_t launch_landing_lists(const LandingParams& params, cudaStream_t stream) {
  const LandingPlan plan = plan_of(params);
  const LandingWork work = work_of(params, plan);
  if (plan.bins == 0) return cudaSuccess;
  const int64_t sample_blocks = tiles_of(plan.samples, kSampleThreads);
  cudaError_t error = cudaMemsetAsync(work.counters, 0, plan.zeroed_end - plan.counters, stream);
  if (error != cudaSuccess) return error;
  error = launch<dcn_dgrad_landing_count_kernel>(sample_blocks, kSampleThreads, stream, work);
  if (error != cudaSuccess) return error;
  error = launch<dcn_dgrad_landing_scan_kernel>(tiles_of(plan.bins, kScanBins), kScanThreads,
                                                stream, work);
  if (error != cudaSuccess) return error;
  error = launch<dcn_dgrad_landing_fill_kernel>(sample_blocks, kSampleThreads, stream, work);
  if (error != cudaSuccess) return error;
  error = launch<dcn_dgrad_landing_order_kernel>(tiles_of(plan.bins, kSampleThreads),
                                                 kSampleThreads, stream, work);
  if (error != cudaSuccess) return error;
  switch (params.grad_dtype) {
    case Dtype::kF32:
      return launch_heavy<float>(work, plan, stream);
    case Dtype::kF16:
      return launch_heavy<__half>(work, plan, stream);
    case Dtype::kBF16:
      return launch_heavy<__nv_bfloat16>(work, plan, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace dcn
