// From landing lists to fragments of A: what a warp's block of 4 x 4 pixels collects from grad.
//
// A sample gives a pixel a weight times its row of grad (block_plan.cuh). So the values of a step
// are a product, [16 pixels x samples] x [samples x 128 bytes of channels], which the tensor cores
// make 16 samples at a time: a row of grad is loaded once for all pixels of the block that it
// touches. A lane of quad column q has the samples 4 * i + q of a batch, in the fragments of both
// operands; lane row g loads one 16-byte vector of each.
//
// Zeros are multiplied, too: an infinity spreads over the block as NaN. And a plan has a limit.
// Tiles with sums that are no numbers, or samples that do not fit, are listed for a second kernel
// (irregular_gather.cuh).
#pragma once

#include "../fused/fused_gather.cuh"
#include "../fused/fused_mma.cuh"
#include "../ptx_sm90.cuh"
#include "block_plan.cuh"

namespace dcn {

// The values of a step before they are rounded: of 16 pixels x 128 bytes of channels.
template <class Math>
struct BlockSums {
  static constexpr bool kSplit = weight_parts(Math::kKind) == 2;
  static constexpr bool kShort = sizeof(typename Math::Element) == 2;
  static constexpr int kElements = kVectorBytes / static_cast<int>(sizeof(typename Math::Element));

  // What a lane multiplies a batch's rows with: of 16 bits fragments of A; of f32, for each of its
  // four samples, weights for rows g and g + 8 of the block.
  struct Weights {
    uint32_t bits[kShort ? 4 : 8];
  };

  __device__ __forceinline__ void add(const Weights& weights, const uint4 (&vector)[4]) {
    if constexpr (kShort) {
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const int take = j % 2 ? 0x7632 : 0x5410;  // of two samples the same channel
        MmaOf<Math>::mma(
            sum[j], weights.bits,
            __byte_perm(register_of(vector[0], j / 2), register_of(vector[1], j / 2), take),
            __byte_perm(register_of(vector[2], j / 2), register_of(vector[3], j / 2), take));
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        uint32_t a[4], trailing_a[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) take(weights.bits[2 * i + k], a[k], trailing_a[k]);
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          uint32_t b[2], trailing_b[2];
#pragma unroll
          for (int k = 0; k < 2; ++k) take(register_of(vector[i + k], j), b[k], trailing_b[k]);
          MmaOf<Math>::mma(sum[j], a, b[0], b[1]);
          if constexpr (kSplit) {
            MmaOf<Math>::mma(sum[j], trailing_a, b[0], b[1]);
            MmaOf<Math>::mma(sum[j], a, trailing_b[0], trailing_b[1]);
          }
        }
      }
    }
  }

  // value[2 * row half + half of the slice]: a vector of lane column q.
  __device__ __forceinline__ void round(uint32_t (&value)[4][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (kShort) {
          value[i][k] = Math::pack(sum[2 * k][i], sum[2 * k + 1][i]);
        } else if constexpr (kSplit) {
          value[i][k] = __float_as_uint(sum[k][i]);
        } else {
          value[i][k] = rounded_when_cut(sum[k][i]);
        }
      }
    }
  }

  __device__ __forceinline__ bool are_numbers() const {
    float none = 0.f;  // NaN where one is infinite or NaN
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) none += 0.f * sum[k][i];
    }
    return none == 0.f;
  }
  // Channel k of both vectors of that half of the slice.
  __device__ __forceinline__ void clear(int k, int half) { sum[k][half] = sum[k][2 + half] = 0.f; }

  float sum[kElements][4] = {};

 private:
  // The trailing part is cut off by the tensor cores. That of an infinity is NaN.
  static __device__ __forceinline__ void take(uint32_t value, uint32_t& leading,
                                              uint32_t& trailing) {
    if constexpr (kSplit) {
      split_tf32<false>(value, leading, trailing);
    } else {
      leading = rounded_when_cut(__uint_as_float(value));
    }
  }
};

// What a lane multiplies a batch with. Row g of the product is pixel (g / 4, g % 4) of the block,
// and row g + 8 is two lines below.
template <class Math>
__device__ __forceinline__ typename BlockSums<Math>::Weights batch_weights(
    const SampleBatch<BlockSums<Math>::kShort>& batch, int lane) {
  const int q = lane % 4;
  typename BlockSums<Math>::Weights weights;
  if constexpr (BlockSums<Math>::kShort) {
    const uint2 column = batch.column[lane / 4 % 4][q];
    const uint4 line = *reinterpret_cast<const uint4*>(batch.line[lane / 16][q]);
    weights.bits[0] = Math::multiply(column.x, line.x);
    weights.bits[1] = Math::multiply(column.x, line.z);
    weights.bits[2] = Math::multiply(column.y, line.y);
    weights.bits[3] = Math::multiply(column.y, line.w);
  } else {
    const auto weigh = [&](float y, float x, float mask, uint32_t* bits) {
      const float column = mask * hat(x - static_cast<float>(lane / 4 % 4));
      const float distance = y - static_cast<float>(lane / 16);
      bits[0] = __float_as_uint(column * hat(distance));
      bits[1] = __float_as_uint(column * hat(distance - 2.f));
    };
    const float4 y = batch.y[q], x = batch.x[q], mask = batch.mask[q];
    weigh(y.x, x.x, mask.x, &weights.bits[0]);
    weigh(y.y, x.y, mask.y, &weights.bits[2]);
    weigh(y.z, x.z, mask.z, &weights.bits[4]);
    weigh(y.w, x.w, mask.w, &weights.bits[6]);
  }
  return weights;
}

// Of the vector in the slice that a lane loads for a product. Columns 2 * q and 2 * q + 1 of it,
// which lane column q ends with, are the q-th vectors of both halves of the slice.
__device__ __forceinline__ int32_t multiplied_byte(int lane) {
  return lane / 4 % 2 * (kSliceBytes / 2) + lane / 8 * kVectorBytes;
}

template <class Math, int kBatchesInFlight>
class BlockGather {
 public:
  __device__ __forceinline__ BlockGather(const DgradParams& params, uint8_t* plans, int32_t group,
                                         int thread)
      : params_(params),
        lane_(thread % 32),
        group_(group),
        plan_(reinterpret_cast<BlockPlan<Math>*>(
            plans + kept(threadIdx.x / 32 * static_cast<int>(sizeof(BlockPlan<Math>))))) {
    ptx::wait_for_previous_grid();  // it makes the lists
  }

  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep at) {
    return WideGather<Math, 2>::run_length(params, at);
  }

  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const OutputPixel first{__shfl_sync(~0u, row.at.n, 0), __shfl_sync(~0u, row.at.p, 0),
                            __shfl_sync(~0u, row.at.q, 0)};
    const ConvShape& shape = params_.shape;
    const int32_t row_bytes = params_.layout.channels * kElementBytes;
    taps_ = min(params_.layout.chunk_taps, shape.taps() - at.first_tap);
    regular_ &=
        BlockPlanner<Math>(params_, plan_, lane_).make(first, row_bytes, at.first_tap, taps_);
    tap_ = at.tap - at.first_tap;
    left_ = params_.layout.block_channels * kElementBytes - at.slice * kSliceBytes;
    vector_ = static_cast<const uint8_t*>(params_.input) +
              int64_t{first.n} * shape.H * shape.W * row_bytes +
              group_ * params_.layout.group_channels * kElementBytes + at.slice * kSliceBytes +
              byte();
    clip();
    batches_ = batches_of(tap_);
    load(0, rows_of(batches_));
    if (kBatchesInFlight == 2 && batches_.more()) load(1, rows_of(batches_.next()));
  }

  // Whether the samples of a tile, which ends here, had their place in the plans.
  __device__ __forceinline__ bool end_tile() {
    const bool regular = regular_;
    regular_ = true;
    return regular;
  }

  // The values of this step; with `more`, the loads of the next are on their way at the end.
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more) {
    BlockSums<Math> sums;
    // The first batches, mostly all, apart: there the sums are known to be 0.
    bool last = add_two(sums, more);
#pragma unroll 1
    while (!last) last = add_two(sums, more);
    sums.round(value);
  }

 private:
  using Element = typename Math::Element;
  using Weights = typename BlockSums<Math>::Weights;
  static constexpr int kElementBytes = sizeof(Element);

  // Two batches of the tap, or the one that is left; asks for the next two. Whether they are the
  // last. What shared memory holds is read before the loads are in its way.
  __device__ __forceinline__ bool add_two(BlockSums<Math>& sums, bool more) {
    const Batches now = batches_;
    const bool two = now.more(), last = now.count() <= 2, loads = !last || more;
    const Weights first = weights_of(now), second = weights_of(two ? now.next() : now);
    if constexpr (kBatchesInFlight == 2) {
      if (last) advance();
      batches_ = last ? batches_of(tap_) : now.next().next();
      const uint4 row = rows_of(batches_);
      sums.add(first, flight_[0]);
      if (loads) load(0, row);
      const bool two_next = batches_.more();
      const uint4 second_row = rows_of(two_next ? batches_.next() : batches_);
      if (two) sums.add(second, flight_[1]);
      if (loads && two_next) load(1, second_row);
    } else {
      const uint4 row = rows_of(two ? now.next() : now);
      sums.add(first, flight_[0]);
      if (two) {
        load(0, row);
        sums.add(second, flight_[0]);
      }
      if (last) advance();
      batches_ = last ? batches_of(tap_) : now.next().next();
      if (loads) load(0, rows_of(batches_));
    }
    return last;
  }

  // What is left of a tap's batches: the first, and in the upper half how many.
  struct Batches {
    uint32_t bits;
    __device__ __forceinline__ uint32_t first() const { return bits & 0xffffu; }
    __device__ __forceinline__ uint32_t count() const { return bits >> 16; }
    __device__ __forceinline__ bool more() const { return bits >= 0x20000u; }
    __device__ __forceinline__ Batches next() const { return {bits - 0xffffu}; }
  };
  __device__ __forceinline__ Batches batches_of(int32_t tap) const { return {plan_->head[tap]}; }
  // Where the lane's rows of the first of the batches are.
  __device__ __forceinline__ uint4 rows_of(Batches batches) const {
    return plan_->batch[batches.first()].row[lane_ % 4];
  }

  __device__ __forceinline__ int32_t byte() const { return multiplied_byte(lane_); }
  // A lane beyond the block's channels reads the slice's first vector; its weights are 0.
  __device__ __forceinline__ void clip() {
    if (byte() >= left_) vector_ -= byte();
  }

  __device__ __forceinline__ void advance() {
    if (++tap_ < taps_) return;
    tap_ = 0;
    left_ -= kSliceBytes;
    vector_ += kSliceBytes;
    if (left_ < kSliceBytes) clip();
  }

  __device__ __forceinline__ void load(int slot, uint4 row) {
    load_corners(vector_, row, flight_[slot]);  // here the rows of four samples
  }

  // Of the first of the batches.
  __device__ __forceinline__ Weights weights_of(Batches batches) const {
    return batch_weights<Math>(plan_->batch[batches.first()], lane_);
  }

  const DgradParams& params_;
  const int lane_;
  const int32_t group_;
  BlockPlan<Math>* const plan_;
  bool regular_ = true;
  int32_t taps_, tap_;     // of the chunk
  int32_t left_;           // bytes of the group's channels from the slice on
  const uint8_t* vector_;  // of this lane, in the slice, of the image's first row
  Batches batches_;        // of the tap, from those in flight on
  uint4 flight_[kBatchesInFlight][4];
};

}  // namespace dcn
