// The second kernel's gather: from landing lists to fragments of A, row by row. As
// fused_gather.cuh, but a row (a pixel of the image) collects as many rows of grad as samples touch
// it.
//
// Each step merges its own lists; where they are too long for the shared memory, or a bin is heavy,
// the rows walk the bins in memory. Summed in f32. Slower than block_gather.cuh, but without a
// limit, and a row of grad meets no pixel that it does not belong to.
#pragma once

#include "../fused/fused_gather.cuh"
#include "list_plan.cuh"

namespace dcn {

template <class Math>
class ListGather {
 public:
  __device__ __forceinline__ ListGather(const DgradParams& params, uint8_t* plans, int32_t,
                                        int thread)
      : params_(params),
        lane_(thread % 32),
        plan_(reinterpret_cast<ListPlan*>(plans + kept(threadIdx.x / 32 * kListPlanBytes))),
        lists_(params, plan_, lane_) {
    ptx::wait_for_previous_grid();  // it makes the lists
  }

  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep at) {
    return WideGather<Math, 2>::run_length(params, at);
  }

  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    lists_.begin(row, at);
    tap_ = at.tap - at.first_tap;
    left_ = params_.layout.block_channels * kElementBytes - at.slice * kSliceBytes;
    const uint8_t* slice = grad() +
                           static_cast<int32_t>(params_.channel_tiles.quotient(blockIdx.y)) *
                               params_.layout.group_channels * kElementBytes +
                           at.slice * kSliceBytes;
    vectors_.locate(slice, left_, lane_);
  }

  // The values of this step. No load of the next is on its way at the end.
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool) {
    const bool merged = lists_.merge(tap_);
#pragma unroll 1
    for (int r = 0; r < 2; ++r) {
      float sums[2][kElements] = {};
      merged ? add_list(r, sums) : add_bins(r, sums);
#pragma unroll
      for (int v = 0; v < 2; ++v) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          uint32_t packed;
          if constexpr (kElementBytes == 2) {
            packed = Math::pack(sums[v][2 * k], sums[v][2 * k + 1]);
          } else {
            packed = Math::rounded(__float_as_uint(sums[v][k]));
          }
          if (r == 0) {
            value[v][k] = packed;
          } else {
            value[2 + v][k] = packed;
          }
        }
      }
    }
    clear(value);
    advance();
  }

 private:
  using Element = typename Math::Element;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kElements = kVectorBytes / kElementBytes;

  // From the warp's image on.
  __device__ __forceinline__ const uint8_t* grad() const {
    return static_cast<const uint8_t*>(params_.input) +
           int64_t{plan_->first_row} * lists_.row_bytes();
  }

  // Vectors beyond the slice are 0.
  __device__ __forceinline__ void clear(uint32_t (&value)[4][4]) const {
    if (left_ >= kSliceBytes) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (LaneVectors::byte(unkept(lane_), i % 2) < left_) continue;
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = 0;
    }
  }

  __device__ __forceinline__ void advance() {
    if (++tap_ < lists_.taps()) return;
    tap_ = 0;
    left_ -= kSliceBytes;
    vectors_.next(left_, lane_);
  }

  // Sums of the lane's row r, from its list or straight from the bins.
  __device__ __forceinline__ void add_list(int r, float (&sums)[2][kElements]) const {
    const uint32_t head = plan_->head[lane_ / 4 + 8 * r];
    const uint32_t first = head & 0xffffu, end = first + (head >> 16);
#pragma unroll 1
    for (uint32_t i = first; i < end; ++i) {
      const uint4 offset = plan_->offset[i];
      const float4 weight = plan_->weight[i];
      uint4 vector[4][2];
      load_row(offset.x, vector[0]);
      load_row(offset.y, vector[1]);
      load_row(offset.z, vector[2]);
      load_row(offset.w, vector[3]);
      add_row(weight.x, vector[0], sums);
      add_row(weight.y, vector[1], sums);
      add_row(weight.z, vector[2], sums);
      add_row(weight.w, vector[3], sums);
    }
  }
  __device__ __forceinline__ void add_bins(int r, float (&sums)[2][kElements]) const {
    const int32_t bin = plan_->bin[lane_ / 4 + 8 * r];
    if (bin < 0) return;
    // The bins of which this row is a corner; loads of all are on their way before one is waited
    // for.
    uint32_t begin[4], end[4], heavy[4];
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const uint32_t* start =
          lists_.starts(tap_) + bin + (corner & 2 ? 0 : params_.shape.Q + 1) + (corner & 1 ? 0 : 1);
      begin[corner] = __ldg(start);
      end[corner] = __ldg(start + 1) & ~kHeavyStart;
    }
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      heavy[corner] = ~0u;
      if ((begin[corner] & kHeavyStart) == 0) continue;
      begin[corner] &= ~kHeavyStart;
      heavy[corner] = __float_as_uint(load_record(params_, begin[corner]).mask);
      begin[corner] = end[corner];  // no records
    }
    add_heavy(heavy, sums);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      add_records(begin[corner], end[corner], corner, sums);
    }
  }
  // All loads of kAtOnce are on their way before one is waited for; behind the last record they
  // read that one again.
  __device__ __forceinline__ void add_records(uint32_t begin, uint32_t end, int corner,
                                              float (&sums)[2][kElements]) const {
    constexpr int kAtOnce = 8;
#pragma unroll 1
    for (uint32_t first = begin; first < end; first += kAtOnce) {
      LandingRecord record[kAtOnce];
      uint4 vector[kAtOnce][2];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) record[i] = load_record(params_, min(first + i, end - 1));
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const auto row = int64_t{record[i].row - static_cast<uint32_t>(plan_->first_row)};
        load_row(row * lists_.row_bytes(), vector[i]);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float ly = floored(record[i].y).fraction, lx = floored(record[i].x).fraction;
        const float weight = (corner & 2 ? ly : 1.f - ly) * (corner & 1 ? lx : 1.f - lx);
        if (first + i < end) add_row(weight * record[i].mask, vector[i], sums);
      }
    }
  }
  // `heavy`: the number of each corner's bin, or ~0.
  __device__ __forceinline__ void add_heavy(const uint32_t (&heavy)[4],
                                            float (&sums)[2][kElements]) const {
    constexpr int kFours = kElements / 4;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float* const first =
          params_.lists.heavy_rows + (vectors_.at[v] - grad()) / kElementBytes;
      float4 four[4][kFours] = {};
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        if (heavy[corner] == ~0u) continue;
        const auto* row = reinterpret_cast<const float4*>(
            first + (int64_t{heavy[corner]} * 4 + corner) * params_.layout.channels);
#pragma unroll
        for (int i = 0; i < kFours; ++i) four[corner][i] = __ldg(row + i);
      }
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
        for (int i = 0; i < kFours; ++i) {
          sums[v][4 * i] += four[corner][i].x;
          sums[v][4 * i + 1] += four[corner][i].y;
          sums[v][4 * i + 2] += four[corner][i].z;
          sums[v][4 * i + 3] += four[corner][i].w;
        }
      }
    }
  }
  __device__ __forceinline__ void load_row(int64_t bytes, uint4 (&vector)[2]) const {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      vector[v] = __ldg(reinterpret_cast<const uint4*>(vectors_.at[v] + bytes));
    }
  }
  __device__ __forceinline__ void add_row(float weight, const uint4 (&vector)[2],
                                          float (&sums)[2][kElements]) const {
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

  const DgradParams& params_;
  const int lane_;
  ListPlan* const plan_;
  ListMerge<Math> lists_;
  int32_t tap_;   // of the chunk
  int32_t left_;  // bytes of the group's channels from the slice on
  LaneVectors vectors_;
};

}  // namespace dcn
