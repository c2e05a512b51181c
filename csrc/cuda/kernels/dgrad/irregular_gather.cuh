// The second kernel's gather: from landing lists to fragments of A, a tap at a time, without a
// limit.
//
// As block_gather.cuh, but batches of light bins are made again for each step, as often as there
// are samples left, and sums of heavy bins are added. Where a sum is no number, the rows of the
// block walk the bins that touch them instead, so that a row of grad meets no pixel that it does
// not belong to.
#pragma once

#include "block_gather.cuh"
#include "crowd_plan.cuh"

namespace dcn {

template <class Math>
class IrregularGather {
 public:
  __device__ __forceinline__ IrregularGather(const DgradParams& params, uint8_t* plans,
                                             int32_t group, int thread)
      : params_(params),
        lane_(thread % 32),
        group_(group),
        plan_(reinterpret_cast<CrowdPlan<Math>*>(
            plans + kept(threadIdx.x / 32 * block_plan_bytes(Math::kKind)))),
        planner_(params, plan_, lane_) {
    ptx::wait_for_previous_grid();  // it makes the lists
  }

  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep at) {
    return WideGather<Math, 2>::run_length(params, at);
  }

  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    first_ = {__shfl_sync(~0u, row.at.n, 0), __shfl_sync(~0u, row.at.p, 0),
              __shfl_sync(~0u, row.at.q, 0)};
    first_tap_ = at.first_tap;
    taps_ = min(params_.layout.chunk_taps, params_.shape.taps() - at.first_tap);
    tap_ = at.tap - at.first_tap;
    left_ = params_.layout.block_channels * kElementBytes - at.slice * kSliceBytes;
    slice_ = static_cast<const uint8_t*>(params_.input) +
             int64_t{first_.n} * params_.shape.H * params_.shape.W * row_bytes() +
             group_ * params_.layout.group_channels * kElementBytes + at.slice * kSliceBytes;
  }

  // The values of this step. No load of the next is on its way at the end.
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool) {
    BlockSums<Math> sums;
    planner_.find(first_, first_tap_ + tap_);
    multiply(sums);
    if (!__all_sync(~0u, sums.are_numbers())) walk(sums);
    clear(sums);
    if (planner_.any_heavy()) add_heavy(sums);
    sums.round(value);
    advance();
  }

 private:
  using Element = typename Math::Element;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kElements = kVectorBytes / kElementBytes;
  // Batches, and rows of a walk. 3xTF32 has no registers for more.
  static constexpr int kInFlight = BlockSums<Math>::kSplit ? 3 : 4;

  __device__ __forceinline__ int32_t row_bytes() const {
    return params_.layout.channels * kElementBytes;
  }
  // Of the vectors of both halves of the slice that a lane ends with.
  __device__ __forceinline__ int32_t byte(int half) const {
    return half * (kSliceBytes / 2) + lane_ % 4 * kVectorBytes;
  }
  // A vector beyond the block's channels is the slice's first one instead, and cleared later.
  __device__ __forceinline__ const uint8_t* vector_at(int32_t byte) const {
    return slice_ + (byte < left_ ? byte : 0);
  }

  __device__ __forceinline__ void advance() {
    if (++tap_ < taps_) return;
    tap_ = 0;
    left_ -= kSliceBytes;
    slice_ += kSliceBytes;
  }

  // The samples of light bins.
  __device__ __forceinline__ void multiply(BlockSums<Math>& sums) const {
    const uint8_t* const vector = vector_at(multiplied_byte(lane_));
    for (uint32_t begin = 0; begin < planner_.samples(); begin += kPlanBatches * kBatch) {
      const int32_t batches = planner_.list(first_, begin, row_bytes());
      uint4 flight[kInFlight][4];
      const auto load = [&](int slot, int32_t batch) {
        if (batch >= batches) return;
        load_corners(vector, plan_->batch[batch].row[lane_ % 4], flight[slot]);
      };
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) load(i, i);
#pragma unroll 1
      for (int32_t first = 0; first < batches; first += kInFlight) {
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          if (first + i >= batches) break;
          sums.add(batch_weights<Math>(plan_->batch[first + i], lane_), flight[i]);
          load(i, first + i + kInFlight);
        }
      }
    }
  }

  // The same sums, each of the samples alone that touch its pixel.
  __device__ __forceinline__ void walk(BlockSums<Math>& sums) const {
    sums = {};
#pragma unroll 1
    for (int r = 0; r < 2; ++r) {
      float own[2][kElements] = {};
      walk_row(lane_ / 16 + 2 * r, lane_ / 4 % 4, own);
#pragma unroll
      for (int v = 0; v < 2; ++v) {
#pragma unroll
        for (int k = 0; k < kElements; ++k) {
          if (r == 0) {
            sums.sum[k][v] = own[v][k];
          } else {
            sums.sum[k][2 + v] = own[v][k];
          }
        }
      }
    }
  }
  // Of pixel (y, x) of the block.
  __device__ __forceinline__ void walk_row(int y, int x, float (&sums)[2][kElements]) const {
    // Records of the four bins, one behind the other.
    uint32_t end[4], from[4], count = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const int bin = bin_with_corner(y, x, corner, kBlockBins);
      from[corner] = plan_->begin[bin] - count;
      end[corner] = count += plan_->end[bin] - plan_->begin[bin];
    }
    const uint32_t first_row = first_.n * params_.shape.H * params_.shape.W;  // of grad
    const uint8_t* const at[2] = {vector_at(byte(0)), vector_at(byte(1))};
#pragma unroll 1
    for (uint32_t first = 0; first < count; first += kInFlight) {
      LandingRecord record[kInFlight];
      uint4 vector[kInFlight][2];
      int corner[kInFlight];
      // All loads are on their way before one is waited for; behind the last record that one again.
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const uint32_t number = min(first + i, count - 1);
        uint32_t add = from[0];
        corner[i] = 0;
#pragma unroll
        for (int c = 1; c < 4; ++c) {
          if (number < end[c - 1]) continue;
          add = from[c];
          corner[i] = c;
        }
        record[i] = load_record(params_, number + add);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const uint32_t bytes = (record[i].row - first_row) * row_bytes();
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          vector[i][v] = __ldg(reinterpret_cast<const uint4*>(at[v] + bytes));
        }
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const float weight = corner_weight(record[i], corner[i]);
        if (first + i < count) add_row(weight * record[i].mask, vector[i], sums);
      }
    }
  }
  static __device__ __forceinline__ void add_row(float weight, const uint4 (&vector)[2],
                                                 float (&sums)[2][kElements]) {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if constexpr (kElementBytes == 2) {
          const uint32_t pair = register_of(vector[v], i / 2);
          sums[v][i] = fmaf(weight, Math::wide(i % 2 ? pair >> 16 : pair & 0xffffu), sums[v][i]);
        } else {
          sums[v][i] = fmaf(weight, __uint_as_float(register_of(vector[v], i)), sums[v][i]);
        }
      }
    }
  }

  // Vectors beyond the slice are 0.
  __device__ __forceinline__ void clear(BlockSums<Math>& sums) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (byte(half) < left_) continue;
#pragma unroll
      for (int k = 0; k < kElements; ++k) sums.clear(k, half);
    }
  }

  __device__ __forceinline__ void add_heavy(BlockSums<Math>& sums) const {
    constexpr int kFours = kElements / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (byte(half) >= left_) continue;
      const float* const first =
          params_.lists.heavy_rows +
          (slice_ + byte(half) - static_cast<const uint8_t*>(params_.input)) / kElementBytes -
          int64_t{first_.n} * params_.shape.H * params_.shape.W * params_.layout.channels;
      float4 four[2][4][kFours] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = i / 4, corner = i % 4;
        const uint32_t heavy =
            plan_->heavy[bin_with_corner(lane_ / 16 + 2 * r, lane_ / 4 % 4, corner, kBlockBins)];
        if (heavy == kNotHeavy) continue;
        const auto* row = reinterpret_cast<const float4*>(first + (int64_t{heavy} * 4 + corner) *
                                                                      params_.layout.channels);
#pragma unroll
        for (int k = 0; k < kFours; ++k) four[r][corner][k] = __ldg(row + k);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = i / 4, corner = i % 4, at = 2 * r + half;
#pragma unroll
        for (int k = 0; k < kFours; ++k) {
          sums.sum[4 * k][at] += four[r][corner][k].x;
          sums.sum[4 * k + 1][at] += four[r][corner][k].y;
          sums.sum[4 * k + 2][at] += four[r][corner][k].z;
          sums.sum[4 * k + 3][at] += four[r][corner][k].w;
        }
      }
    }
  }

  const DgradParams& params_;
  const int lane_;
  const int32_t group_;
  CrowdPlan<Math>* const plan_;
  CrowdPlanner<Math> planner_;
  OutputPixel first_;               // of the block
  int32_t first_tap_, taps_, tap_;  // of the chunk; of the step, in it
  int32_t left_;                    // bytes of the group's channels from the slice on
  const uint8_t* slice_;            // of the image's first row
};

}  // namespace dcn
