// From samples to fragments of A: a warp's 16 rows x 128 bytes of channels for one step.
//
// Lane (g, q) of a warp owns rows g and g + 8 of the matrix multiplication, and of each half slice
// (64 bytes) the vector q. The packed weight orders gemm_k so that this vector is, as it was
// loaded, the lane's part of two multiplications: one 16-byte load a corner, no exchange between
// lanes, no shared memory. Odd rows load the second half first: two rows of a quad then read
// different halves of their lines, which the L1 serves at once.
#pragma once

#include "lane_vectors.cuh"

namespace dcn {

// The samples of a chunk of taps, as a warp plans them in shared memory.
struct WarpPlan {
  uint4 weight[kPlanTaps][kWarpPixels];
  uint4 corner[kPlanTaps][kWarpPixels];
  uint32_t outside[16];  // of a tap: bit r is set where row r is outside
};
static_assert(sizeof(WarpPlan) == kPlanBytes);

// For offset groups as wide as a slice or wider: each sample is planned once, by the whole warp,
// which has kRowTiles times 16 rows and as many plans. Where two sets of kSetWarps take turns at
// the steps, two warps have the same rows, and plan half of the samples each: for one run, of two
// taps or more.
template <class Math, int kRowsInFlight, int kRowTiles = 1, int kSetWarps = 0>
class WideGather {
 public:
  __device__ __forceinline__ WideGather(const FpropParams& params, uint8_t* plans, int32_t group,
                                        int thread)
      : params_(params),
        lane_(thread % 32),
        group_(group),
        plan_(reinterpret_cast<WarpPlan*>(plans + in_set(thread / 32) * kRowTiles * kPlanBytes)),
        own_(reinterpret_cast<WarpPlan*>(
            plans +
            kept(in_set(threadIdx.x / 32) * kRowTiles * kPlanBytes + threadIdx.x % 32 / 4 * 16))) {
    static_assert(kRowTiles == 1 || (kRowsInFlight == 1 && kSetWarps == 0));
  }

  // Steps that follow one another without a new plan, from `at` on.
  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep at) {
    const FusedLayout& layout = params.layout;
    const int32_t taps = min(layout.chunk_taps, params.shape.taps() - at.first_tap);
    return (layout.slices - at.slice) * taps - (at.tap - at.first_tap);
  }

  // `meanwhile` is called while the offsets and masks of samples are on their way, `behind` while
  // the first corners are.
  template <class Meanwhile, class Behind>
  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at, Meanwhile meanwhile,
                                        Behind behind) {
    plan_tiles([&](int) { return row; }, at, meanwhile);
    start();
    behind();
  }
  // The only run of this warp, which has at least a step, behind those of the sets before it.
  template <class Meanwhile, class Behind>
  __device__ __forceinline__ void begin_turns(const TileRow& row, FusedStep at, int set,
                                              Meanwhile meanwhile, Behind behind) {
    plan_tiles([&](int) { return row; }, at, meanwhile);
    pass_steps(set);
    start();
    behind();
  }
  // `row_of`: the row of this lane in row tile t.
  template <class RowOf>
  __device__ __forceinline__ void begin_tiles(RowOf row_of, FusedStep at) {
    plan_tiles(row_of, at, [] {});
    start();
  }
  template <class RowOf, class Meanwhile>
  __device__ __forceinline__ void plan_tiles(RowOf row_of, FusedStep at, Meanwhile meanwhile) {
    TileRow row = row_of(0);
    const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);  // of the warp
    const int64_t image_elements =
        int64_t{params_.shape.H} * params_.shape.W * params_.layout.channels;
    chunk_ = min(params_.layout.chunk_taps, params_.shape.taps() - at.first_tap) << kTapsAt;
#pragma unroll 1
    for (int t = 0; t < kRowTiles; ++t) {
      if (t > 0) row = row_of(t);
      plan_chunk(t, row,
                 static_cast<uint32_t>((row.at.n - first_image) * image_elements) * kElementBytes,
                 at.block, at.first_tap, meanwhile);
    }
    tap_ = at.tap - at.first_tap;
    const int32_t block_bytes = params_.layout.block_channels * kElementBytes;
    left_ = block_bytes - at.slice * kSliceBytes;
    const uint8_t* slice =
        static_cast<const uint8_t*>(params_.input) +
        (first_image * image_elements + group_ * params_.layout.group_channels) * kElementBytes +
        at.block * block_bytes + at.slice * kSliceBytes;
    vectors_.locate(slice, left_, lane_);
  }

  // The first loads of a step that has none on their way.
  __device__ __forceinline__ void start() {
    load(0, corner_of(0, tap_));
    if (kRowsInFlight == 2) load(1, corner_of(1, tap_));
  }

  // What a step without more does instead: registers that are not written would have to be kept.
  __device__ __forceinline__ void stop() {
#pragma unroll
    for (auto& vector : corner_) {
#pragma unroll
      for (uint4& corner : vector) corner = {};
    }
  }

  // The values of this step for row tile t, one tile after the other; with `more`, the loads of the
  // next step are on their way at the end.
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more, int t = 0) {
    const int32_t tap = tap_;
    const bool last = t + 1 == kRowTiles;
    const bool clears = left_ < kSliceBytes || (chunk_ >> (kTilesAt * t + tap) & 1u);
    // What a row needs of the plan is asked for before the loads of the row before it have filled
    // the queue.
    if constexpr (kRowsInFlight == 2) {
      const uint4 weight0 = weight_of(0, tap);
      advance();
      const uint4 corner0 = corner_of(0, tap_), weight1 = weight_of(1, tap);
      mix(0, weight0, value);
      if (more) load(0, corner0);
      const uint4 corner1 = corner_of(1, tap_);
      mix(1, weight1, value);
      if (more) load(1, corner1);
    } else {
      const uint4 weight0 = weight_of(2 * t, tap), corner1 = corner_of(2 * t + 1, tap);
      mix(0, weight0, value);
      const uint4 weight1 = weight_of(2 * t + 1, tap);
      load(2 * t + 1, corner1);
      if (last) advance();
      const uint4 corner0 = corner_of(last ? 0 : 2 * t + 2, tap_);
      mix(1, weight1, value);
      if (!last || more) load(last ? 0 : 2 * t + 2, corner0);
    }
    if (clears) clear(value, tap, t);
  }

 private:
  static constexpr int kElementBytes = sizeof(typename Math::Element);
  static constexpr int kTilesAt = kPlanTaps + 1, kTapsAt = 2 * kTilesAt;
  static constexpr int kTurns = kSetWarps > 0 ? 2 : 1;

  static __device__ __forceinline__ int in_set(int warp) {
    return kSetWarps > 0 ? warp % kSetWarps : warp;
  }

  // Half a warp plans a tap for all rows; all loads of offsets are issued before the first is used.
  template <class Meanwhile>
  __device__ __forceinline__ void plan_chunk(int t, const TileRow& row, uint32_t image_base,
                                             int32_t block, int32_t first_tap,
                                             Meanwhile meanwhile) {
    constexpr int kTapsOfRound = 2 * kTurns;
    constexpr int kRounds = (kPlanTaps + kTapsOfRound - 1) / kTapsOfRound;
    const ConvShape& shape = params_.shape;
    const int32_t own_row = lane_ % kWarpPixels,
                  set = kSetWarps > 0 ? threadIdx.x / (32 * kSetWarps) : 0;
    const int32_t own_tap = 2 * set + lane_ / kWarpPixels;
    const int32_t channel =
        group_ * params_.layout.group_channels + block * params_.layout.block_channels;
    const int32_t map =
        static_cast<int32_t>(params_.offset_group.quotient(channel)) * shape.taps() + first_tap +
        own_tap;
    const MapCursor<Math> offset(params_.offset, row.at, 2 * map);
    const MapCursor<Math> mask(params_.mask, row.at, map);
    const auto exists = [&](int round) { return kTapsOfRound * round + own_tap < taps(); };
    uint32_t shift[kRounds][2], modulation[kRounds][1];
    MapCursor<Math>::template load_both<kRounds, kTapsOfRound>(offset, mask, shift, modulation,
                                                               exists);
    meanwhile();
    take_loaded(shift);
    take_loaded(modulation);
    const uint32_t pixel_bytes = params_.layout.channels * kElementBytes;
    const float y = shape.origin_y(row.at.p, 0), x = shape.origin_x(row.at.q, 0);
    if constexpr (kTurns == 1) __syncwarp();  // the previous plan has been read
    uint32_t outside_rows = 0;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int32_t in_chunk = kTapsOfRound * i + own_tap, tap = first_tap + in_chunk;
      const int32_t r = params_.kernel_width.quotient(tap), s = tap - r * shape.S;
      const float m = mask.value(modulation[i][0]);
      const FusedSample sample = fused_sample(
          y + static_cast<float>(r * shape.dil_h) + offset.value(shift[i][0]),
          x + static_cast<float>(s * shape.dil_w) + offset.value(shift[i][1]), row.exists ? m : 0.f,
          shape.H, shape.W, shape.W * pixel_bytes, pixel_bytes, image_base);
      const uint32_t rows = __ballot_sync(~0u, sample.outside || !row.exists);
      if (lane_ == kTapsOfRound * i + 2 * set) outside_rows = rows & 0xffffu;
      if (lane_ == kTapsOfRound * i + 2 * set + 1) outside_rows = rows >> 16;
      // Only in the last round may there be none. (Two tiles leave no registers for rounds side by
      // side.)
      if ((kRowTiles == 1 && kTapsOfRound * (i + 1) <= kPlanTaps) || in_chunk < kPlanTaps) {
        plan_[t].weight[in_chunk][own_row] = Math::weights(sample.weight);
        plan_[t].corner[in_chunk][own_row] = sample.corner;
      }
    }
    if (lane_ < kPlanTaps && (kTurns == 1 || lane_ / 2 % 2 == set)) {
      plan_[t].outside[lane_] = outside_rows;
    }
    if constexpr (kTurns == 1) {
      chunk_ |= __ballot_sync(~0u, outside_rows != 0) << (kTilesAt * t);
      __syncwarp();
    } else {
      ptx::meet(1 + in_set(threadIdx.x / 32), 64);  // the other warp has planned its half
      outside_rows = lane_ < kPlanTaps ? plan_[t].outside[lane_] : 0;
      chunk_ |= __ballot_sync(~0u, outside_rows != 0);
    }
  }

  __device__ __forceinline__ int32_t taps() const { return chunk_ >> kTapsAt; }

  __device__ __forceinline__ void advance() { pass_steps(kTurns); }
  // No more than there are taps.
  __device__ __forceinline__ void pass_steps(int32_t steps) {
    tap_ += steps;
    if (tap_ < taps()) return;
    tap_ = kTurns == 1 ? 0 : tap_ - taps();
    left_ -= kSliceBytes;
    vectors_.next(left_, lane_);
  }

  // Of row r of this lane, two a row tile.
  __device__ __forceinline__ uint4 weight_of(int r, int32_t tap) const {
    return ptx::load_shared(ptx::shared_address(&own_[r / 2].weight[tap][8 * (r % 2)]));
  }
  __device__ __forceinline__ uint4 corner_of(int r, int32_t tap) const {
    return ptx::load_shared(ptx::shared_address(&own_[r / 2].corner[tap][8 * (r % 2)]));
  }
  // At the current slice.
  __device__ __forceinline__ void load(int r, uint4 corner) {
    const int slot = kRowsInFlight == 2 ? r : 0;
    load_corners(vectors_.at[0], corner, corner_[2 * slot]);
    load_corners(vectors_.at[1], corner, corner_[2 * slot + 1]);
  }
  // r: of the row tile.
  __device__ __forceinline__ void mix(int r, uint4 weight, uint32_t (&value)[4][4]) const {
    const int slot = kRowsInFlight == 2 ? r : 0;
    Math::mix(corner_[2 * slot], weight, value[2 * r]);
    Math::mix(corner_[2 * slot + 1], weight, value[2 * r + 1]);
  }

  // Rows outside at `tap`, and vectors that the slice has not, are 0. (`advance` has been called
  // after the last tile.)
  __device__ __forceinline__ void clear(uint32_t (&value)[4][4], int32_t tap, int t) const {
    const int lane = unkept(lane_);
    const uint32_t rows = plan_[t].outside[tap] >> (lane / 4);
    const int32_t left = left_ + (t + 1 == kRowTiles && tap_ <= tap ? kSliceBytes : 0);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool outside = rows >> (i / 2 * 8) & 1u;
      if (outside || LaneVectors::byte(lane, i % 2) >= left) {
#pragma unroll
        for (int k = 0; k < 4; ++k) value[i][k] = 0;
      }
    }
  }

  const FpropParams& params_;
  const int lane_;
  const int32_t group_;
  WarpPlan* const plan_;
  const WarpPlan* const own_;  // from this lane's first row on
  uint32_t chunk_;  // bit kTilesAt * t + tap: some row of tile t is outside; from kTapsAt on: taps
  int32_t tap_;     // of the chunk
  int32_t left_;    // bytes of the block from the slice on
  LaneVectors vectors_;
  uint4 corner_[2 * kRowsInFlight][4];
};

}  // namespace dcn
