// From landing lists to fragments of A: the gather of the input gradient. As fused_gather.cuh, but
// a row (a pixel of the image) collects as many rows of grad as samples touch it, four on average.
//
// Lists of all taps of a chunk are merged at once. Tiles whose lists are too long for that, or meet
// a heavy bin, are listed for a second kernel, kIrregular: there each step merges its own lists,
// and where one tap alone is too long, or a bin is heavy, the rows walk the bins in memory. Slower,
// but without a limit, and summed in f32; and apart, because the code of that costs the first
// kernel its registers.
#pragma once

#include "fused_gather.cuh"
#include "list_plan.cuh"

namespace dcn {

template <class Math, int kRowsInFlight, bool kIrregular>
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
    regular_ = kIrregular || lists_.merge_all();
    left_ = params_.layout.block_channels * kElementBytes - at.slice * kSliceBytes;
    const uint8_t* slice = grad() +
                           static_cast<int32_t>(params_.channel_tiles.quotient(blockIdx.y)) *
                               params_.layout.group_channels * kElementBytes +
                           at.slice * kSliceBytes;
    vectors_.locate(slice, left_, lane_);
    if constexpr (!kIrregular) start();
  }

  // Whether all lists of the chunk could be merged; those that could not are empty.
  __device__ __forceinline__ bool regular() const { return regular_; }

  // The values of this step; with `more`, the loads of the next are on their way at the end.
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = 0;
    }
    const int32_t left = left_;
    if constexpr (kIrregular) {
      collect_wide(value);
      advance();
    } else {
      collect(value, more);
    }
    finish(value, left);
  }

 private:
  using Element = typename Math::Element;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kElements = kVectorBytes / kElementBytes;

  // From the warp's first image on.
  __device__ __forceinline__ const uint8_t* grad() const {
    return static_cast<const uint8_t*>(params_.input) +
           int64_t{plan_->first_row} * lists_.row_bytes();
  }
  // A row's list of the tap: its next four, and in the upper half how many are left.
  struct Cursor {
    uint32_t bits;
    __device__ __forceinline__ bool more() const { return bits >= 0x10000u; }
    __device__ __forceinline__ uint32_t at() const { return bits & 0xffffu; }
    // Beyond the end it must not come round: it stays there.
    __device__ __forceinline__ Cursor next() const { return {more() ? bits - 0xffffu : bits}; }
  };
  __device__ __forceinline__ Cursor list_of(int r) const {
    return {plan_->head[tap_][lane_ / 4 + 8 * r]};
  }

  // The first loads of a step that has none on their way.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (auto& vector : four_) {
#pragma unroll
      for (uint4& row : vector) row = {};
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      cursor_[r] = list_of(r);
      if (r < kRowsInFlight) load(r, cursor_[r], plan_->offset[cursor_[r].at()]);
    }
  }

  // Adds up the step's lists, four entries of each row at a time; a warp's rows go on together
  // until the longest of its lists ends. Beyond the end of its list a row loads nothing, and adds
  // what it has with weights of 0: cheaper than a branch of its own. (What it has is its own, so
  // that an infinity there may become NaN, but spreads to no other row.)
  __device__ __forceinline__ void collect(uint32_t (&value)[4][4], bool more) {
    int32_t left = max(plan_->longest[tap_], 1u);
    bool last;
#pragma unroll 1
    do {
      last = --left == 0;
      if constexpr (kRowsInFlight == 2) {
        if (last) advance();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const Cursor then = next(r, last, more);
          const uint4 offset = plan_->offset[then.at()];
          add(r, r, value);
          load(r, then, offset);
          cursor_[r] = then;
        }
      } else {
        const uint4 other = plan_->offset[cursor_[1].at()];
        add(0, 0, value);
        load(0, cursor_[1], other);
        if (last) advance();
        const Cursor then = next(0, last, more);
        const uint4 offset = plan_->offset[then.at()];
        add(1, 0, value);
        load(0, then, offset);
        cursor_[0] = then;
        cursor_[1] = next(1, last, more);
      }
    } while (!last);
  }

  __device__ __forceinline__ Cursor next(int r, bool last, bool more) const {
    if (!last) return cursor_[r].next();
    return more ? list_of(r) : Cursor{0};
  }
  // The four of row r, which are in flight in that slot.
  __device__ __forceinline__ void add(int r, int slot, uint32_t (&value)[4][4]) const {
    const Cursor& cursor = cursor_[r];
    // The slot of two rows may hold the other's values, and 0 times an infinity is not 0.
    if (kRowsInFlight == 1 && !cursor.more()) return;
    const uint4 weight = plan_->weight[cursor.more() ? cursor.at() : kListQuads];
    Math::add(four_[2 * slot], weight, value[2 * r]);
    Math::add(four_[2 * slot + 1], weight, value[2 * r + 1]);
  }
  __device__ __forceinline__ void load(int slot, const Cursor& cursor, const uint4& offset) {
    const bool exists = cursor.more();
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      ptx::load_vector_if(exists, vectors_.at[v] + offset.x, four_[2 * slot + v][0]);
      ptx::load_vector_if(exists, vectors_.at[v] + offset.y, four_[2 * slot + v][1]);
      ptx::load_vector_if(exists, vectors_.at[v] + offset.z, four_[2 * slot + v][2]);
      ptx::load_vector_if(exists, vectors_.at[v] + offset.w, four_[2 * slot + v][3]);
    }
  }

  // Rounds the values; vectors beyond the `left` bytes of the slice are 0.
  __device__ __forceinline__ void finish(uint32_t (&value)[4][4], int32_t left) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = Math::rounded(value[i][k]);
    }
    if (left >= kSliceBytes) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (LaneVectors::byte(unkept(lane_), i % 2) < left) continue;
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

  // The values of a tap, summed in f32: from its lists, or straight from the bins.
  __device__ __forceinline__ void collect_wide(uint32_t (&value)[4][4]) {
    const bool merged = lists_.merge_one(tap_);
#pragma unroll 1
    for (int r = 0; r < 2; ++r) {
      float sums[2][kElements] = {};
      merged ? add_list(list_of(r), sums) : add_bins(r, sums);
#pragma unroll
      for (int v = 0; v < 2; ++v) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          uint32_t packed;
          if constexpr (kElementBytes == 2) {
            packed = Math::pack(sums[v][2 * k], sums[v][2 * k + 1]);
          } else {
            packed = __float_as_uint(sums[v][k]);
          }
          if (r == 0) {
            value[v][k] = packed;
          } else {
            value[2 + v][k] = packed;
          }
        }
      }
    }
  }
  __device__ __forceinline__ void add_list(Cursor cursor, float (&sums)[2][kElements]) const {
#pragma unroll 1
    for (; cursor.more(); cursor = cursor.next()) {
      const uint4 offset = plan_->offset[cursor.at()], weight = plan_->weight[cursor.at()];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        add_row(__uint_as_float(register_of(weight, i)), register_of(offset, i), sums);
      }
    }
  }
  __device__ __forceinline__ void add_bins(int r, float (&sums)[2][kElements]) const {
    const int32_t bin = plan_->bin[lane_ / 4 + 8 * r];
    if (bin < 0) return;
#pragma unroll 1
    for (int corner = 3; corner >= 0; --corner) {
      // The bin of which this row is that corner.
      const int2 run = __ldg(lists_.runs_of(tap_) + bin + (corner & 2 ? 0 : params_.shape.Q + 1) +
                             (corner & 1 ? 0 : 1));
      if (run.x < 0) {
        add_heavy(int64_t{~run.x} * 4 + corner, sums);
        continue;
      }
#pragma unroll 2
      for (int32_t i = run.x; i < run.y; ++i) {
        const LandingRecord record = lists_.load_record(i);
        const float w = record.mask * (corner & 2 ? record.ly : 1.f - record.ly) *
                        (corner & 1 ? record.lx : 1.f - record.lx);
        add_row(w,
                int64_t{record.row - static_cast<uint32_t>(plan_->first_row)} * lists_.row_bytes(),
                sums);
      }
    }
  }
  __device__ __forceinline__ void add_heavy(int64_t row, float (&sums)[2][kElements]) const {
    const float* const channels = params_.lists.heavy_rows + row * params_.layout.channels;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const auto first = static_cast<int32_t>((vectors_.at[v] - grad()) / kElementBytes);
#pragma unroll
      for (int i = 0; i < kElements; ++i) sums[v][i] += __ldg(channels + first + i);
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
  ListMerge<Math, !kIrregular> lists_;
  bool regular_;
  int32_t tap_;   // of the chunk
  int32_t left_;  // bytes of the group's channels from the slice on
  LaneVectors vectors_;
  Cursor cursor_[2];  // of this lane's two rows
  uint4 four_[2 * kRowsInFlight][4];
};

}  // namespace dcn
