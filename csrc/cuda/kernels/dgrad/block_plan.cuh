// The samples that touch a block of 4 x 4 pixels of the image, of each tap of a chunk, in the
// shared memory of a warp.
//
// They are those of 5 x 5 bins of landing_lists.h, and lie in 5 runs of records, a run for each row
// of bins. Of each tap they are listed in batches of 16; the last batch is filled up with a sample
// whose mask is 0.
#pragma once

#include "../landing/landing_bins.cuh"

namespace dcn {

// A sample gives pixel (y, x) mask * hat(y - its y) * hat(x - its x) of its row of grad.
__device__ __forceinline__ float hat(float distance) { return __saturatef(1.f - fabsf(distance)); }

// Lane q of a quad reads samples 4 * i + q of a batch, i < 4. Of f32 it finds their weights itself.
template <bool kShort>
struct SampleBatch {
  uint4 row[4];                // bytes of a row of grad, from the image's first on
  float4 y[4], x[4], mask[4];  // coordinates from the block's first pixel on

  __device__ __forceinline__ void put(int i, int q, float sample_y, float sample_x, float m) {
    const int at = 4 * q + i;
    reinterpret_cast<float*>(y)[at] = sample_y;
    reinterpret_cast<float*>(x)[at] = sample_x;
    reinterpret_cast<float*>(mask)[at] = m;
  }
};

// Of 16 bits it multiplies two factors, of a pixel's column and of its line.
template <>
struct SampleBatch<true> {
  uint4 row[4];
  uint2 column[4][4];   // [x][q]: mask * hat, four samples
  uint2 line[2][4][2];  // [y % 2][q][y / 2]: hat

  template <typename Element>
  __device__ __forceinline__ void put(int i, int q, float sample_y, float sample_x, float m) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      narrow(m * hat(sample_x - k), reinterpret_cast<Element*>(&column[k][q])[i]);
      narrow(hat(sample_y - k), reinterpret_cast<Element*>(&line[k % 2][q][k / 2])[i]);
    }
  }
};

// The sample of a record to a slot, a batch's or of several in a line, for the block that begins
// at pixel `first`.
template <class Math>
__device__ __forceinline__ void put_record(SampleBatch<sizeof(typename Math::Element) == 2>& batch,
                                           uint32_t slot, const LandingRecord& record,
                                           const OutputPixel& first, uint32_t first_row,
                                           int32_t row_bytes) {
  const int q = slot % 4, i = slot % kBatch / 4;
  reinterpret_cast<uint32_t*>(batch.row)[4 * q + i] = (record.row - first_row) * row_bytes;
  const float y = record.y - static_cast<float>(first.p);
  const float x = record.x - static_cast<float>(first.q);
  if constexpr (sizeof(typename Math::Element) == 2) {
    batch.template put<typename Math::Element>(i, q, y, x, record.mask);
  } else {
    batch.put(i, q, y, x, record.mask);
  }
}

template <class Math>
struct BlockPlan {
  using Element = typename Math::Element;
  static constexpr bool kShort = sizeof(Element) == 2;

  SampleBatch<kShort> batch[kPlanBatches];
  uint32_t run_begin[kPlanTaps][kBlockSide + 4], run_length[kPlanTaps][kBlockSide + 4];
  uint32_t head[16];  // of a tap: first batch | batches << 16, which are 0 behind the last tap
};

template <class Math>
class BlockPlanner {
 public:
  __device__ __forceinline__ BlockPlanner(const DgradParams& params, BlockPlan<Math>* plan,
                                          int lane)
      : params_(params), lane_(lane), plan_(plan) {
    static_assert(sizeof *plan == block_plan_bytes(Math::kKind) && sizeof *plan % 16 == 0);
  }

  // Lists the samples of the block that begins at pixel `first` for the taps of a chunk, at least a
  // batch each. False where they do not fit: then no sample is listed.
  __device__ __forceinline__ bool make(const OutputPixel& first, int32_t row_bytes,
                                       int32_t first_tap, int32_t taps) {
    __syncwarp();  // the previous plan has been read
    uint32_t begin[kRounds], length[kRounds];
    find_runs(first, first_tap, taps, begin, length);
    bool crowded = false;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) crowded |= length[i] > kHeavyBin;
    put_runs(begin, length);
    const bool fits = lay_out(taps) <= kPlanBatches && !__any_sync(~0u, crowded);
    if (!fits) {
#pragma unroll
      for (uint32_t& each : length) each = 0;
      __syncwarp();
      put_runs(begin, length);
      lay_out(taps);
    }
    fill(first, row_bytes, taps);
    __syncwarp();
    return fits;
  }

 private:
  static constexpr int kRuns = kBlockSide + 1;                   // of a tap
  static constexpr int kRounds = (kPlanTaps * kRuns + 31) / 32;  // runs of a lane
  static_assert(kPlanTaps * (kRuns - 1) <= 64 && kPlanTaps <= 16);

  // Where the rows of bins begin that touch the block.
  __device__ __forceinline__ void find_runs(const OutputPixel& first, int32_t first_tap,
                                            int32_t taps, uint32_t (&begin)[kRounds],
                                            uint32_t (&length)[kRounds]) const {
    const ConvShape& shape = params_.shape;  // P x Q are the pixels of the image
    const int32_t width = shape.Q + 1, columns = min(kRuns, width - first.q);
    const uint32_t* const starts = starts_of(params_, first_tap) +
                                   int64_t{first.n} * params_.plane_starts + first.p * width +
                                   first.q;
    uint32_t end[kRounds];
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int32_t run = lane_ + 32 * i, tap = run / kRuns, row = run - tap * kRuns;
      begin[i] = end[i] = 0;
      if (tap < taps && first.p + row <= shape.P) {
        const uint32_t* from = starts + int64_t{tap} * shape.N * params_.plane_starts + row * width;
        begin[i] = __ldg(from);
        end[i] = __ldg(from + columns);
      }
    }
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      begin[i] &= ~kHeavyStart;
      length[i] = (end[i] & ~kHeavyStart) - begin[i];
    }
  }

  __device__ __forceinline__ void put_runs(const uint32_t (&begin)[kRounds],
                                           const uint32_t (&length)[kRounds]) const {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int32_t run = lane_ + 32 * i, tap = run / kRuns, row = run - tap * kRuns;
      if (tap < kPlanTaps) {
        plan_->run_begin[tap][row] = begin[i];
        plan_->run_length[tap][row] = length[i];
      }
    }
    __syncwarp();
  }

  // Gives each tap its batches; returns how many there are.
  __device__ __forceinline__ int32_t lay_out(int32_t taps) const {
    const int32_t tap = min(lane_, kPlanTaps - 1);
    int32_t samples = 0;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) samples += plan_->run_length[tap][r];
    const int32_t batches = lane_ < taps ? max((samples + kBatch - 1) / kBatch, 1) : 0;
    int32_t end = batches;
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 2) {
      const int32_t before = __shfl_up_sync(~0u, end, distance);
      if (lane_ >= distance) end += before;
    }
    if (lane_ < 16) plan_->head[lane_] = (end - batches) | batches << 16;
    const int32_t all = __shfl_sync(~0u, end, 15);
    __syncwarp();
    return all;
  }

  // The runs of a tap, one behind the other.
  struct Runs {
    uint32_t end[kRuns];   // of the samples of each
    uint32_t from[kRuns];  // what a sample's number lacks of its record's

    __device__ __forceinline__ uint32_t samples() const { return end[kRuns - 1]; }
    __device__ __forceinline__ uint32_t record(uint32_t sample) const {
      uint32_t add = from[0];
#pragma unroll
      for (int r = 1; r < kRuns; ++r) add = sample >= end[r - 1] ? from[r] : add;
      return sample + add;
    }
  };
  __device__ __forceinline__ Runs runs_of(int32_t tap) const {
    Runs runs;
    uint32_t sum = 0;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      runs.from[r] = plan_->run_begin[tap][r] - sum;
      runs.end[r] = sum += plan_->run_length[tap][r];
    }
    return runs;
  }

  // Behind the last sample that one again, with a mask of 0. Where there is none, the record of
  // zeros, with a row of grad that exists.
  __device__ __forceinline__ LandingRecord find(const Runs& runs, uint32_t sample,
                                                uint32_t first_row) const {
    const uint32_t samples = runs.samples();
    const uint32_t i = runs.record(min(sample, samples - 1));
    LandingRecord record = load_record(params_, samples == 0 ? 0 : i);
    if (samples == 0) record.row = first_row;
    if (sample >= samples) record.mask = 0.f;
    return record;
  }

  // A lane has samples lane, lane + 32, ... of each tap. All loads are on their way before one is
  // waited for.
  __device__ __forceinline__ void fill(const OutputPixel& first, int32_t row_bytes, int32_t taps) {
    const uint32_t first_row = first.n * params_.shape.H * params_.shape.W;  // of grad
    const auto put = [&](int32_t tap, uint32_t sample, const LandingRecord& record) {
      const uint32_t head = plan_->head[tap];
      if (sample >= (head >> 16) * kBatch) return;
      put_record<Math>(plan_->batch[(head & 0xffffu) + sample / kBatch], sample, record, first,
                       first_row, row_bytes);
    };
    LandingRecord record[kPlanTaps];
#pragma unroll
    for (int tap = 0; tap < kPlanTaps; ++tap) {
      record[tap] = find(runs_of(tap), lane_, first_row);
    }
#pragma unroll
    for (int tap = 0; tap < kPlanTaps; ++tap) {
      put(tap, lane_, record[tap]);
    }
#pragma unroll 1
    for (int tap = 0; tap < taps; ++tap) {
      const uint32_t slots = (plan_->head[tap] >> 16) * kBatch;
      if (slots <= 32) continue;
      const Runs runs = runs_of(tap);
#pragma unroll 1
      for (uint32_t sample = lane_ + 32; sample < slots; sample += 32) {
        put(tap, sample, find(runs, sample, first_row));
      }
    }
  }

  const DgradParams& params_;
  const int lane_;
  BlockPlan<Math>* const plan_;
};

}  // namespace dcn
