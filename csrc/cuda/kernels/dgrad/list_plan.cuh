// A warp's lists of rows of grad for a tap: the bins that touch each of its 16 pixels, merged, in
// shared memory.
//
// Of a tap a pixel touches four bins of samples (landing_lists.h). Lists are read four entries at a
// time; the last four are filled up by the last entry with weights of 0. (An infinity in that entry
// becomes NaN so, but in a pixel that it belongs to.)
#pragma once

#include "../fused/fused_math.cuh"
#include "../landing/landing_bins.cuh"

namespace dcn {

struct ListPlan {
  uint4 offset[kListQuads];  // bytes of a row of grad, from the first of the warp's image on
  float4 weight[kListQuads];
  uint32_t head[kWarpPixels];    // first four | fours << 16
  int32_t bin[kWarpPixels];      // of a row, the one above and left of it; -1: there is no such row
  int32_t first_row, first_tap;  // of grad, of the warp's image; of the chunk
};
static_assert(sizeof(ListPlan) <= kListPlanBytes);

template <class Math>
class ListMerge {
 public:
  __device__ __forceinline__ ListMerge(const DgradParams& params, ListPlan* plan, int lane)
      : params_(params), lane_(lane), plan_(plan) {}

  // The taps of a chunk, for a row each lane (of lanes 0 to 15).
  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const ConvShape& shape = params_.shape;
    const int32_t image = __shfl_sync(~0u, row.at.n, 0);
    __syncwarp();  // the previous lists have been read
    if (lane_ < kWarpPixels) {
      const int32_t bin = row.at.p * (shape.Q + 1) + row.at.q;
      plan_->bin[lane_] = row.exists ? image * params_.plane_starts + bin : -1;
    }
    if (lane_ == 0) {
      plan_->first_row = image * shape.H * shape.W;
      plan_->first_tap = at.first_tap;
    }
    __syncwarp();
    taps_ = min(params_.layout.chunk_taps, shape.taps() - at.first_tap);
  }

  // Merges the lists of a tap. False where they do not fit, or a bin is heavy: then they are empty.
  __device__ __forceinline__ bool merge(int32_t tap) {
    __syncwarp();  // the previous lists have been read
    const Share share = lay_out(find(tap));
#pragma unroll 1
    for (int32_t i = 0; i < share.records; ++i) {
      write(share, i, load_record(params_, share.begin + i));
    }
    fill_up(share);
    __syncwarp();
    return share.complete;
  }

  __device__ __forceinline__ int32_t taps() const { return taps_; }

  __device__ __forceinline__ int32_t row_bytes() const {
    return params_.layout.channels * static_cast<int32_t>(sizeof(typename Math::Element));
  }
  __device__ __forceinline__ const uint32_t* starts(int32_t tap) const {
    return starts_of(params_, plan_->first_tap + tap);
  }

 private:
  // The two neighbouring bins, left and right of a row, that a lane merges: half a warp those above
  // its rows, half those beside. Their records follow one another.
  struct Bins {
    uint32_t begin, middle, end;
    bool heavy;
  };
  // A lane's records, where their entries go, and how many entries fill up the last four of a list
  // that ends with them.
  struct Share {
    uint32_t begin;
    int32_t from_left, records, first, spare;
    bool complete;
  };

  __device__ __forceinline__ Bins find(int32_t tap) const {
    const int32_t bin = plan_->bin[lane_ % kWarpPixels];
    if (bin < 0) return {};
    const uint32_t* start = starts(tap) + bin + lane_ / kWarpPixels * (params_.shape.Q + 1);
    const uint32_t begin = __ldg(start), middle = __ldg(start + 1), end = __ldg(start + 2);
    return {begin & ~kHeavyStart, middle & ~kHeavyStart, end & ~kHeavyStart,
            ((begin | middle) & kHeavyStart) != 0};
  }

  // Lays out the lists; they stay empty where they do not fit.
  __device__ __forceinline__ Share lay_out(const Bins& bins) {
    const int32_t beside = lane_ / kWarpPixels, row = lane_ % kWarpPixels;
    auto own = static_cast<int32_t>(bins.end - bins.begin);
    int32_t total = own + __shfl_xor_sync(~0u, own, kWarpPixels);
    int32_t fours = (total + 3) / 4;
    int32_t end = fours;  // of the lists of all rows up to this one
#pragma unroll
    for (int distance = 1; distance < kWarpPixels; distance *= 2) {
      const int32_t before = __shfl_up_sync(~0u, end, distance, kWarpPixels);
      if (row >= distance) end += before;
    }
    const int32_t filled = __shfl_sync(~0u, end, kWarpPixels - 1);
    const bool fits = !__any_sync(~0u, bins.heavy) && filled <= kListQuads;
    if (!fits) own = total = fours = end = 0;
    if (beside == 0) plan_->head[row] = (end - fours) | fours << 16;
    return {bins.begin,
            static_cast<int32_t>(bins.middle - bins.begin),
            own,
            4 * (end - fours) + (beside ? total - own : 0),
            own > 0 && (beside || own == total) ? 4 * fours - total : 0,
            fits};
  }

  // Writes the entry of a lane's i-th record.
  __device__ __forceinline__ void write(const Share& share, int32_t i,
                                        const LandingRecord& record) {
    const float ly = floored(record.y).fraction, lx = floored(record.x).fraction;
    reinterpret_cast<uint32_t*>(plan_->offset)[share.first + i] =
        (record.row - plan_->first_row) * row_bytes();
    reinterpret_cast<float*>(plan_->weight)[share.first + i] =
        (lane_ < kWarpPixels ? ly : 1.f - ly) * (i < share.from_left ? lx : 1.f - lx) * record.mask;
  }

  // The last entry again, up to three times, with weights of 0.
  __device__ __forceinline__ void fill_up(const Share& share) {
    if (share.spare == 0) return;
    uint32_t* const offset = reinterpret_cast<uint32_t*>(plan_->offset) + share.first;
    float* const weight = reinterpret_cast<float*>(plan_->weight) + share.first;
    const int32_t last = share.records - 1;
    const uint32_t bytes = offset[last];
    for (int k = 1; k <= share.spare; ++k) {
      offset[last + k] = bytes;
      weight[last + k] = 0.f;
    }
  }

  const DgradParams& params_;
  const int lane_;
  ListPlan* const plan_;
  int32_t taps_;
};

}  // namespace dcn
