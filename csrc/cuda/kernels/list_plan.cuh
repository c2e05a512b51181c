// A warp's lists of rows of grad: the bins that touch each of its 16 pixels, merged, in shared
// memory.
//
// Of each tap a pixel touches four bins of samples (landing_lists.h). Lists are read four entries
// at a time; the last four are filled up by the last entry with weights of 0. (An infinity in that
// entry becomes NaN so, but in a pixel that it belongs to.)
//
// Packed lists are added up in the arithmetic of Math::add, the others in f32. In 16 bits each
// addition rounds, so that only short lists are packed.
#pragma once

#include "dgrad_params.h"
#include "fused_math.cuh"
#include "fused_samples.cuh"

namespace dcn {

// Fours of a packed list in 16 bits. At four entries on average, which is what one sample a pixel
// comes to, one list in a billion is longer.
constexpr int kPackedFours = 5;

struct ListPlan {
  uint4 offset[kListQuads];      // bytes of a row of grad, from the first of the warp's image on
  uint4 weight[kListQuads + 1];  // as Math::add takes them, or f32; the last are 0
  uint32_t head[kPlanTaps][kWarpPixels];  // first four | fours << 16
  uint32_t longest[kPlanTaps];            // fours of a row
  int32_t bin[kWarpPixels];      // of a row, the one above and left of it; -1: there is no such row
  int32_t first_row, first_tap;  // of grad, of the warp's first image; of the chunk
};
static_assert(sizeof(ListPlan) <= kListPlanBytes);

template <class Math, bool kPacked>
class ListMerge {
 public:
  __device__ __forceinline__ ListMerge(const DgradParams& params, ListPlan* plan, int lane)
      : params_(params), lane_(lane), plan_(plan) {}

  // The taps of a chunk, for a row each lane (of lanes 0 to 15). The previous lists are lost.
  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const ConvShape& shape = params_.shape;
    const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);
    __syncwarp();  // the previous lists have been read
    if (lane_ < kWarpPixels) {
      plan_->bin[lane_] =
          row.exists ? (row.at.n * (shape.P + 1) + row.at.p) * (shape.Q + 1) + row.at.q : -1;
    }
    if (lane_ == 0) {
      plan_->first_row = first_image * shape.H * shape.W;
      plan_->first_tap = at.first_tap;
      plan_->weight[kListQuads] = {};
    }
    __syncwarp();
    taps_ = min(params_.layout.chunk_taps, shape.taps() - at.first_tap);
  }

  // Merges the lists of all taps. False where they do not fit, one is too long, or a bin is heavy:
  // the lists of such a tap are empty.
  __device__ __forceinline__ bool merge_all() {
    constexpr int kTaps = 3;
    complete_ = true;
    int32_t used = 0;
    Bins bins[kTaps];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) bins[t] = find(t);
#pragma unroll 1
    for (int32_t tap = 0; tap < taps_; tap += kTaps) {
      Bins next[kTaps];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) next[t] = find(tap + kTaps + t);
      merge(tap, bins, used);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) bins[t] = next[t];
    }
    __syncwarp();
    return complete_;
  }
  // The same for one tap, whose lists take the place of all others.
  __device__ __forceinline__ bool merge_one(int32_t tap) {
    __syncwarp();  // the previous lists have been read
    complete_ = true;
    int32_t used = 0;
    const Bins bins[1] = {find(tap)};
    merge(tap, bins, used);
    __syncwarp();
    return complete_;
  }

  __device__ __forceinline__ int32_t taps() const { return taps_; }

  __device__ __forceinline__ int32_t row_bytes() const {
    return params_.layout.channels * static_cast<int32_t>(sizeof(typename Math::Element));
  }
  // Bins of a tap, of this CTA's offset group.
  __device__ __forceinline__ const int2* runs_of(int32_t tap) const {
    const ConvShape& shape = params_.shape;
    const int64_t bins = int64_t{shape.N} * (shape.P + 1) * (shape.Q + 1);
    const int32_t group = params_.channel_tiles.quotient(blockIdx.y);
    const int32_t channel_tile = blockIdx.y - group * params_.channel_tiles.value;
    const int32_t channel =
        group * shape.output_channels_per_group() + channel_tile * params_.channels_of_tile;
    const int32_t offset_group = channel / params_.channels_per_offset_group;
    return params_.lists.runs +
           (int64_t{offset_group} * shape.taps() + plan_->first_tap + tap) * bins;
  }

  __device__ __forceinline__ LandingRecord load_record(int32_t i) const {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(params_.lists.records) + i);
    return {v.x, __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
  }

 private:
  // The two neighbouring bins, left and right of a row, that a lane merges: half a warp those above
  // its rows, half those beside. Their records follow one another.
  struct Bins {
    int2 left, right;
  };
  // A lane's records, where their entries go, and how many entries fill up the last four of a list
  // that ends with them.
  struct Share {
    int32_t begin, from_left, records, first, spare;
  };

  __device__ __forceinline__ Bins find(int32_t tap) const {
    Bins bins = {};
    const int32_t bin = plan_->bin[lane_ % kWarpPixels];
    if (bin >= 0 && tap < taps_) {
      const int2* runs = runs_of(tap) + bin + lane_ / kWarpPixels * (params_.shape.Q + 1);
      bins.left = __ldg(runs);
      bins.right = __ldg(runs + 1);
    }
    return bins;
  }

  static constexpr int kMostFours =
      kPacked && sizeof(typename Math::Element) == 2 ? kPackedFours : kListQuads;

  // Lays out the lists of a tap behind the `used` fours; they stay empty where they do not fit.
  __device__ __forceinline__ Share lay_out(int32_t tap, const Bins& bins, int32_t& used) {
    const int32_t beside = lane_ / kWarpPixels, row = lane_ % kWarpPixels;
    const int32_t from_left = bins.left.y - bins.left.x;
    int32_t own = from_left + bins.right.y - bins.right.x;
    int32_t total = own + __shfl_xor_sync(~0u, own, kWarpPixels);
    int32_t fours = (total + 3) / 4;
    int32_t end = fours;  // of the lists of all rows up to this one
#pragma unroll
    for (int distance = 1; distance < kWarpPixels; distance *= 2) {
      const int32_t before = __shfl_up_sync(~0u, end, distance, kWarpPixels);
      if (row >= distance) end += before;
    }
    end += used;
    const int32_t filled = __shfl_sync(~0u, end, kWarpPixels - 1);
    const bool bad = fours > kMostFours || bins.left.x < 0 || bins.right.x < 0;
    const bool fits = filled <= kListQuads && !__any_sync(~0u, bad);
    complete_ &= fits;
    if (fits) {
      used = filled;
    } else {
      own = total = fours = end = 0;
    }
    const int32_t longest = __reduce_max_sync(~0u, fours);
    if (tap < taps_) {
      if (beside == 0) plan_->head[tap][row] = (end - fours) | fours << 16;
      if (lane_ == 0) plan_->longest[tap] = longest;
    }
    return {from_left > 0 ? bins.left.x : bins.right.x, from_left, own,
            4 * (end - fours) + (beside ? total - own : 0),
            own > 0 && (beside || own == total) ? 4 * fours - total : 0};
  }

  // Writes the entry of a lane's i-th record.
  __device__ __forceinline__ void write(const Share& share, int32_t i,
                                        const LandingRecord& record) {
    float w = i < share.from_left ? record.lx : 1.f - record.lx;
    w *= (lane_ < kWarpPixels ? record.ly : 1.f - record.ly) * record.mask;
    reinterpret_cast<uint32_t*>(plan_->offset)[share.first + i] =
        (record.row - plan_->first_row) * row_bytes();
    reinterpret_cast<uint32_t*>(plan_->weight)[share.first + i] =
        kPacked ? Math::weights({w, w, w, w}).x : __float_as_uint(w);
  }

  // Merges the lists of kTaps taps. All loads are on their way before one is waited for.
  template <int kTaps>
  __device__ __forceinline__ void merge(int32_t tap, const Bins (&bins)[kTaps], int32_t& used) {
    constexpr int kAtOnce = 3;
    Share share[kTaps];
    LandingRecord record[kTaps][kAtOnce];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      share[t] = lay_out(tap + t, bins[t], used);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (i < share[t].records) record[t][i] = load_record(share[t].begin + i);
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (i < share[t].records) write(share[t], i, record[t][i]);
      }
#pragma unroll 1
      for (int32_t i = kAtOnce; i < share[t].records; ++i) {
        write(share[t], i, load_record(share[t].begin + i));
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) fill_up(share[t]);
  }

  // The last entry again, up to three times, with weights of 0.
  __device__ __forceinline__ void fill_up(const Share& share) {
    if (share.spare == 0) return;
    uint32_t* const offset = reinterpret_cast<uint32_t*>(plan_->offset) + share.first;
    uint32_t* const weight = reinterpret_cast<uint32_t*>(plan_->weight) + share.first;
    const int32_t last = share.records - 1;
    const uint32_t bytes = offset[last];
#pragma unroll
    for (int k = 1; k <= 3; ++k) {
      if (k > share.spare) break;
      offset[last + k] = bytes;
      weight[last + k] = 0;
    }
  }

  const DgradParams& params_;
  const int lane_;
  ListPlan* const plan_;
  int32_t taps_;
  bool complete_;
};

}  // namespace dcn
