// The rows of a heavy bin, in order, and their sums: what a CTA does for its part of an item of
// landing_heavy.cu.
//
// All rows of a bin are of one image. A bitmap of them is their order, whatever the order of the
// bin's records: warps take its words by turns, and list the pixels that they find 32 at a time.
// While the gradient of one such batch is summed, the coordinates of the next are on their way.
#pragma once

#include "landing_work.cuh"

namespace dcn {

constexpr int kHeavyThreads = 128;
constexpr int kHeavyWarps = kHeavyThreads / 32;
constexpr int kRowLanes = 8;  // 128 bytes of a row
constexpr int kRowGroups = 32 / kRowLanes;
constexpr int kRowsInFlight = 4;        // rows of a lane
constexpr int kBitmapPixels = 1 << 16;  // pixels of the bitmap

// What an item is, and the CTA's part of it: one of one, or of a cluster's.
struct HeavyItem {
  uint32_t number, channel_block;  // of the bin
  HeavyBin bin;
  uint32_t part, parts;
};

// Of a warp: pixels that were found, and a batch whose weights are known.
struct WarpBatch {
  float4 weight[32];
  uint32_t pixel[32];
  uint32_t found[64];
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
    if (lane_ < found_) batch_.found[lane_] = kept;  // what follows is written by the next word
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
    for (int first = lane_ / kRowLanes; first < planned_; first += kRowsInFlight * kRowGroups) {
      Vector<Element, kVec> value[kRowsInFlight];
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        const int row = first + i * kRowGroups;
        if (row < planned_) {
          value[i] = *reinterpret_cast<const Vector<Element, kVec>*>(
              grad_ + int64_t{batch_.pixel[row]} * work_.call.grad_channels);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        const int row = first + i * kRowGroups;
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

// The first and last pixel of a bin: a few records may lie anywhere on a map of many bitmaps.
// `ends`: shared memory.
__device__ __forceinline__ uint2 find_ends(const LandingRecord* records, uint32_t count,
                                           uint32_t first_row, uint32_t (&ends)[2]) {
  if (threadIdx.x < 2) ends[threadIdx.x] = 0;
  __syncthreads();
  uint32_t before = 0, last = 0;  // before: the complement of the first
  for (uint32_t i = threadIdx.x; i < count; i += kHeavyThreads) {
    const uint32_t pixel = records[i].row - first_row;
    before = max(before, ~pixel);
    last = max(last, pixel);
  }
  before = __reduce_max_sync(~0u, before);
  last = __reduce_max_sync(~0u, last);
  if (threadIdx.x % 32 == 0) {
    atomicMax(&ends[0], before);
    atomicMax(&ends[1], last);
  }
  __syncthreads();
  return {~ends[0], ends[1]};
}

// The rows of the words that this part of the CTAs has.
template <typename Element>
__device__ __forceinline__ void sum_rows(const LandingWork& work, const HeavyItem& item,
                                         uint32_t first_row, uint32_t (&bitmap)[kBitmapPixels / 32],
                                         uint32_t (&ends)[2], HeavySum<Element>& sum) {
  constexpr int kAtOnce = 8;
  const int lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32 * item.parts + item.part;
  const uint32_t warps = kHeavyWarps * item.parts, pixels = work.pixels.value;
  const auto count = static_cast<uint32_t>(item.bin.end - item.bin.begin);
  const LandingRecord* const records = work.records + item.bin.begin;
  // Records that follow one another are mostly of neighbouring pixels; a thread takes them one
  // after the other, so that a warp does not ask for one word at once.
  const uint32_t each = (count + kHeavyThreads - 1) / kHeavyThreads;
  const uint32_t own_begin = threadIdx.x * each, own_end = min(own_begin + each, count);
  uint2 reach = {0, pixels - 1};
  if (pixels > kBitmapPixels) reach = find_ends(records, count, first_row, ends);
  for (uint32_t window = reach.x / 32 * 32; window <= reach.y; window += kBitmapPixels) {
    const uint32_t words = (min(reach.y + 1 - window, uint32_t{kBitmapPixels}) + 31) / 32;
    for (uint32_t i = threadIdx.x; i < words; i += kHeavyThreads) bitmap[i] = 0;
    __syncthreads();
    for (uint32_t first = own_begin; first < own_end; first += kAtOnce) {
      uint32_t pixel[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        pixel[i] = records[min(first + i, own_end - 1)].row - first_row - window;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const uint32_t word = pixel[i] / 32;
        const bool own = pixel[i] < kBitmapPixels && (word & (item.parts - 1)) == item.part;
        if (own) atomicOr(bitmap + word, 1u << pixel[i] % 32);
      }
    }
    __syncthreads();
    for (uint32_t base = warp; base < words; base += 32 * warps) {
      const uint32_t own = base + lane * warps;
      const uint32_t word = own < words ? bitmap[own] : 0;
      for (uint32_t filled = __ballot_sync(~0u, word != 0); filled; filled &= filled - 1) {
        const int from = __ffs(filled) - 1;
        sum.find(__shfl_sync(~0u, word, from), window + (base + from * warps) * 32);
      }
    }
    __syncthreads();
  }
  sum.finish();
}

}  // namespace dcn
