// The samples of one tap that touch a block of 4 x 4 pixels of the image, however many there are.
//
// They are those of 5 x 5 bins (landing_lists.h), which have a lane each. Samples of light bins are
// listed in batches (block_plan.cuh), as many at a time as there is room for; of a heavy bin its
// sums are known.
#pragma once

#include "block_plan.cuh"

namespace dcn {

constexpr int kBlockBins = kBlockSide + 1;  // in a row
constexpr int kCrowdBins = kBlockBins * kBlockBins;
constexpr uint32_t kNotHeavy = ~0u;

template <class Math>
struct alignas(16) CrowdPlan {
  SampleBatch<BlockPlan<Math>::kShort> batch[kPlanBatches];
  uint32_t begin[kCrowdBins], end[kCrowdBins];  // records of a bin; of a heavy one none
  uint32_t heavy[kCrowdBins];                   // its number, or kNotHeavy
};

template <class Math>
class CrowdPlanner {
 public:
  __device__ __forceinline__ CrowdPlanner(const DgradParams& params, CrowdPlan<Math>* plan,
                                          int lane)
      : params_(params), lane_(lane), plan_(plan) {
    static_assert(sizeof *plan <= block_plan_bytes(Math::kKind));
  }

  // The bins of a tap around the block that begins at pixel `first`.
  __device__ __forceinline__ void find(const OutputPixel& first, int32_t tap) {
    const ConvShape& shape = params_.shape;  // P x Q are the pixels of the image
    const int32_t p = first.p + lane_ / kBlockBins, q = first.q + lane_ % kBlockBins;
    uint32_t begin = 0, end = 0, heavy = kNotHeavy;
    if (lane_ < kCrowdBins && p <= shape.P && q <= shape.Q) {
      const uint32_t* const start =
          starts_of(params_, tap) + int64_t{first.n} * params_.plane_starts + p * (shape.Q + 1) + q;
      begin = __ldg(start);
      end = __ldg(start + 1) & ~kHeavyStart;
      if (begin & kHeavyStart) {
        heavy = __float_as_uint(load_record(params_, begin & ~kHeavyStart).mask);
        begin = end;
      }
    }
    any_heavy_ = __any_sync(~0u, heavy != kNotHeavy);
    listed_ = end - begin;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t before = __shfl_up_sync(~0u, listed_, distance);
      if (lane_ >= distance) listed_ += before;
    }
    samples_ = __shfl_sync(~0u, listed_, 31);
    record_ = end - listed_;
    __syncwarp();  // the plan of the step before has been read
    if (lane_ < kCrowdBins) {
      plan_->begin[lane_] = begin;
      plan_->end[lane_] = end;
      plan_->heavy[lane_] = heavy;
    }
    __syncwarp();
  }
  __device__ __forceinline__ uint32_t samples() const { return samples_; }  // of light bins
  __device__ __forceinline__ bool any_heavy() const { return any_heavy_; }

  // Lists samples from the begin-th on, as many as there is room for; returns their batches. The
  // last one is filled up by the last sample with a mask of 0.
  __device__ __forceinline__ int32_t list(const OutputPixel& first, uint32_t begin,
                                          int32_t row_bytes) const {
    constexpr int kAtOnce = 4;
    const uint32_t first_row = first.n * params_.shape.H * params_.shape.W;  // of grad
    const uint32_t count = min(samples_ - begin, uint32_t{kPlanBatches * kBatch});
    const uint32_t slots = (count + kBatch - 1) / kBatch * kBatch;
    __syncwarp();  // the batches before have been read
#pragma unroll 1
    for (uint32_t base = lane_; base - lane_ < slots; base += 32 * kAtOnce) {
      LandingRecord record[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        record[i] = load_record(params_, record_of(begin + min(base + 32 * i, count - 1)));
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const uint32_t slot = base + 32 * i;
        if (slot >= slots) continue;
        if (slot >= count) record[i].mask = 0.f;
        put_record<Math>(plan_->batch[slot / kBatch], slot, record[i], first, first_row, row_bytes);
      }
    }
    __syncwarp();
    return slots / kBatch;
  }

 private:
  // Of the sample of that number, which exists; the whole warp asks.
  __device__ __forceinline__ uint32_t record_of(uint32_t sample) const {
    int bin = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      if (__shfl_sync(~0u, listed_, bin + step - 1) <= sample) bin += step;
    }
    return sample + __shfl_sync(~0u, record_, bin);
  }

  const DgradParams& params_;
  const int lane_;
  CrowdPlan<Math>* const plan_;
  uint32_t listed_;   // samples of this lane's bin and those before it
  uint32_t record_;   // what a sample's number lacks of its record's, in this lane's bin
  uint32_t samples_;  // of all bins
  bool any_heavy_;
};

}  // namespace dcn
