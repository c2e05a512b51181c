// Landing lists of planes of any size: a counting sort in device memory.
//
//   count   each sample adds one to its bin, and keeps its place among the bin's arrivals
//   scan    a CTA for each plane: counts to starts, which take their place
//   fill    each sample's record goes to its place
//   order   a thread for each bin orders its records
#include "landing_work.cuh"

namespace dcn {
namespace {

constexpr int kSortThreads = 256;

__global__ void __launch_bounds__(kSortThreads)
    dcn_dgrad_landing_count_kernel(const __grid_constant__ LandingWork work) {
  const uint32_t sample = blockIdx.x * kSortThreads + threadIdx.x;
  if (sample >= work.samples) return;
  const Plane plane = plane_at(work, work.pixels.quotient(sample));
  const OutputPixel at = output_pixel(work, plane, sample - plane.index * work.pixels.value);
  const Point point = point_at(work, plane, at, load_offset(work, plane, at));
  const uint32_t bin = bin_of(work, sample_at(work, point));
  if (bin == kNoBin) return;
  work.places[sample] = atomicAdd(work.starts + plane.index * work.plane_starts.value + bin, 1u);
}

constexpr int kScanThreads = 512;
constexpr int kScanWarps = kScanThreads / 32;
constexpr int kLaneBins = 16;
constexpr uint32_t kRoundBins = kScanThreads * kLaneBins;

// Records of a plane begin where they would if no sample before were outside.
__global__ void __launch_bounds__(kScanThreads)
    dcn_dgrad_landing_scan_kernel(const __grid_constant__ LandingWork work) {
  __shared__ uint32_t warp_sum[2][kScanWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t bins = work.plane_starts.value, first_bin = blockIdx.x * bins;
  const uint32_t own_bin = warp * 32 * kLaneBins + lane;
  uint32_t next[kLaneBins];
  const auto load = [&](uint32_t round) {
#pragma unroll
    for (int i = 0; i < kLaneBins; ++i) {
      const uint32_t bin = round + own_bin + i * 32;
      next[i] = bin < bins ? work.starts[first_bin + bin] : 0;
    }
  };
  load(0);
  if (blockIdx.x == 0 && threadIdx.x == 0) clear_no_record(work);
  uint32_t begin = kFirstRecord + blockIdx.x * work.pixels.value;
  int parity = 0;
  for (uint32_t round = 0; round < bins; round += kRoundBins, parity ^= 1) {
    uint32_t count[kLaneBins], own = 0;
#pragma unroll
    for (int i = 0; i < kLaneBins; ++i) own += count[i] = next[i];
    if (round + kRoundBins < bins) load(round + kRoundBins);
    own = __reduce_add_sync(~0u, own);
    if (lane == 0) warp_sum[parity][warp] = own;
    __syncthreads();
    uint32_t total, of_row;
    const uint32_t before_warp =
        scan_lanes(lane < kScanWarps ? warp_sum[parity][lane] : 0, lane, total);
    uint32_t at[kLaneBins], next_at = begin + __shfl_sync(~0u, before_warp, warp);
    begin += total;
#pragma unroll
    for (int i = 0; i < kLaneBins; ++i) {
      at[i] = next_at + scan_lanes(count[i], lane, of_row);
      next_at += of_row;
    }
#pragma unroll
    for (int i = 0; i < kLaneBins; ++i) {
      const uint32_t bin = round + own_bin + i * 32;
      if (bin < bins) work.starts[first_bin + bin] = start_of(at[i], count[i]);
    }
  }
}

__global__ void __launch_bounds__(kSortThreads)
    dcn_dgrad_landing_fill_kernel(const __grid_constant__ LandingWork work) {
  const uint32_t index = blockIdx.x * kSortThreads + threadIdx.x;
  if (index >= work.samples) return;
  const Plane plane = plane_at(work, work.pixels.quotient(index));
  const uint32_t pixel = index - plane.index * work.pixels.value;
  const OutputPixel at = output_pixel(work, plane, pixel);
  const Point point = point_at(work, plane, at, load_offset(work, plane, at));
  const uint32_t bin = bin_of(work, sample_at(work, point));
  if (bin == kNoBin) return;
  const uint32_t begin = work.starts[plane.index * work.plane_starts.value + bin] & ~kHeavyStart;
  work.records[begin + work.places[index]] = {plane.image * work.pixels.value + pixel, point.y,
                                              point.x, mask_at(work, plane, at)};
}

__device__ __forceinline__ void order_pair(LandingRecord& a, LandingRecord& b) {
  if (a.row > b.row) {
    const LandingRecord later = a;
    a = b;
    b = later;
  }
}

// Records of a bin in order of their rows. Mostly there are few, which are read at once.
__device__ __forceinline__ void order_records(LandingRecord* records, int32_t count) {
  if (count < 2) return;
  if (count <= 4) {
    LandingRecord r[4] = {records[0], records[1], {~0u, 0.f, 0.f, 0.f}, {~0u, 0.f, 0.f, 0.f}};
    if (count > 2) r[2] = records[2];
    if (count > 3) r[3] = records[3];
    order_pair(r[0], r[1]);
    order_pair(r[2], r[3]);
    order_pair(r[0], r[2]);
    order_pair(r[1], r[3]);
    order_pair(r[1], r[2]);
    records[0] = r[0];
    records[1] = r[1];
    if (count > 2) records[2] = r[2];
    if (count > 3) records[3] = r[3];
    return;
  }
  for (int32_t i = 1; i < count; ++i) {
    const LandingRecord moved = records[i];
    int32_t to = i;
    for (; to > 0 && records[to - 1].row > moved.row; --to) records[to] = records[to - 1];
    if (to < i) records[to] = moved;
  }
}

__global__ void __launch_bounds__(kSortThreads)
    dcn_dgrad_landing_order_kernel(const __grid_constant__ LandingWork work) {
  const uint32_t bin = blockIdx.x * kSortThreads + threadIdx.x;
  if (bin >= work.bins + work.planes - 1) return;
  // Where the bin is the end of a plane, the next one begins behind a gap.
  if (work.plane_starts.quotient(bin) != work.plane_starts.quotient(bin + 1)) return;
  const uint32_t begin = work.starts[bin] & ~kHeavyStart;
  const uint32_t count = (work.starts[bin + 1] & ~kHeavyStart) - begin;
  if (count > kHeavyBin) {
    note_heavy(work, bin, begin, count);
  } else {
    order_records(work.records + begin, static_cast<int32_t>(count));
  }
}

template <auto kKernel, typename... Arguments>
cudaError_t launch_landing(int64_t blocks, int threads, cudaStream_t stream,
                           Arguments... arguments) {
  const cudaError_t error = set_up_kernel<kKernel>(0);
  if (error != cudaSuccess) return error;
  kKernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_landing_sort(const LandingWork& work, cudaStream_t stream) {
  const int64_t sample_blocks = tiles_of(work.samples, kSortThreads);
  cudaError_t error =
      cudaMemsetAsync(work.starts, 0, (work.bins + work.planes) * sizeof(uint32_t), stream);
  if (error != cudaSuccess) return error;
  error = launch_landing<dcn_dgrad_landing_count_kernel>(sample_blocks, kSortThreads, stream, work);
  if (error != cudaSuccess) return error;
  error = launch_landing<dcn_dgrad_landing_scan_kernel>(work.planes, kScanThreads, stream, work);
  if (error != cudaSuccess) return error;
  error = launch_landing<dcn_dgrad_landing_fill_kernel>(sample_blocks, kSortThreads, stream, work);
  if (error != cudaSuccess) return error;
  return launch_landing<dcn_dgrad_landing_order_kernel>(
      tiles_of(work.bins + work.planes, kSortThreads), kSortThreads, stream, work);
}

}  // namespace dcn
