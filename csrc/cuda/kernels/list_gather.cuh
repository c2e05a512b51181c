// The second kernel's gather: from landing lists to fragments of A, row by row. As
// fused_gather.cuh, but a row (a pixel of the image) collects as many rows of grad as samples touch
// it.
//
// Each step merges its own lists; where they are too long for the shared memory, or a bin is heavy,
// the rows walk the bins in memory. Slower than block_gather.cuh, but without a limit, and a row of
// grad meets no pixel that it does not belong to.
#pragma once

#include "fused_gather.cuh"
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
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = 0;
    }
    if (lists_.merge(tap_)) {
      collect(value);
    } else {
      walk(value);
    }
    finish(value);
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

  // Adds up the lists, four entries of each row at a time; a warp's rows go on together until the
  // longest of its lists ends.
  __device__ __forceinline__ void collect(uint32_t (&value)[4][4]) {
    uint32_t at[2], left[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t head = plan_->head[lane_ / 4 + 8 * r];
      at[r] = head & 0xffffu;
      left[r] = head >> 16;
    }
    const uint32_t longest = plan_->longest;
#pragma unroll 1
    for (uint32_t i = 0; i < longest; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (i >= left[r]) continue;
        const uint4 offset = plan_->offset[at[r] + i], weight = plan_->weight[at[r] + i];
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          uint4 four[4];
          load_corners(vectors_.at[v], offset, four);
          Math::add(four, weight, value[2 * r + v]);
        }
      }
    }
  }

  // Rounds the values; vectors beyond the slice are 0.
  __device__ __forceinline__ void finish(uint32_t (&value)[4][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = Math::rounded(value[i][k]);
    }
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

  // The values of a tap straight from the bins.
  __device__ __forceinline__ void walk(uint32_t (&value)[4][4]) {
#pragma unroll 1
    for (int r = 0; r < 2; ++r) {
      const int32_t bin = plan_->bin[lane_ / 4 + 8 * r];
      float sums[2][kElements] = {};
      if (bin >= 0) {
#pragma unroll 1
        for (int corner = 3; corner >= 0; --corner) {
          // The bin of which this row is that corner.
          const uint32_t* start = lists_.starts(tap_) + bin +
                                  (corner & 2 ? 0 : params_.shape.Q + 1) + (corner & 1 ? 0 : 1);
          const uint32_t begin = __ldg(start), end = __ldg(start + 1) & ~kHeavyStart;
          if (begin & kHeavyStart) {
            const uint32_t heavy = __float_as_uint(load_record(params_, begin & ~kHeavyStart).mask);
            const uint8_t* rows = static_cast<const uint8_t*>(params_.lists.heavy_rows) +
                                  (int64_t{heavy} * 4 + corner) * lists_.row_bytes();
            add_row(1.f, rows - grad(), sums);
          } else {
#pragma unroll 2
            for (uint32_t i = begin; i < end; ++i) {
              const LandingRecord record = load_record(params_, i);
              const float ly = record.y - floorf(record.y), lx = record.x - floorf(record.x);
              const float w =
                  record.mask * (corner & 2 ? ly : 1.f - ly) * (corner & 1 ? lx : 1.f - lx);
              add_row(w,
                      int64_t{record.row - static_cast<uint32_t>(plan_->first_row)} *
                          lists_.row_bytes(),
                      sums);
            }
          }
        }
      }
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        uint32_t packed[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if constexpr (kElementBytes == 2) {
            packed[k] = Math::pack(sums[v][2 * k], sums[v][2 * k + 1]);
          } else {
            packed[k] = __float_as_uint(sums[v][k]);
          }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (r == 0) {
            value[v][k] = packed[k];
          } else {
            value[2 + v][k] = packed[k];
          }
        }
      }
    }
  }
  __device__ __forceinline__ void add_row(float weight, int64_t bytes,
                                          float (&sums)[2][kElements]) const {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const uint4 vector = __ldg(reinterpret_cast<const uint4*>(vectors_.at[v] + bytes));
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if constexpr (kElementBytes == 2) {
          const uint32_t pair = register_of(vector, i / 2);
          sums[v][i] = fmaf(weight, Math::wide(i % 2 ? pair >> 16 : pair & 0xffffu), sums[v][i]);
        } else {
          sums[v][i] = fmaf(weight, __uint_as_float(register_of(vector, i)), sums[v][i]);
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
