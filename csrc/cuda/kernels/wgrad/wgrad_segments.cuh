// What a CTA of the weight gradient works on: a contiguous part of the steps of all tiles, cut into
// segments where a tile ends.
#pragma once

#include "wgrad_samples.cuh"

namespace dcn {

template <class Math_, int kTile>
struct WgradConfig {
  using Math = Math_;
  static constexpr WgradTile tile = kWgradTiles[kTile];
  static constexpr int kUnits = tile.units;
  static constexpr int kChannels = tile.channels;
  static constexpr int kWarps = tile.units * tile.unit_warps;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kElementBytes = sizeof(typename Math::Element);
  static constexpr int kSliceChannels = kSliceBytes / kElementBytes;
  static constexpr int kStepPixels = step_pixels(tile);
  static constexpr int kPlanPixels = kStepPixels / tile.unit_warps;  // that a warp gathers
  static constexpr int kPlannedSteps = 2 * (32 / kPlanPixels);       // in use, and being planned
  static constexpr int kPlanBytes = kPlannedSteps * sizeof(StepPlan<kPlanPixels>);  // of a warp
  static constexpr int kGradTileBytes = kStepPixels * kChannels * kElementBytes;
  static constexpr int kStages = kGradStages;
};

template <class Config>
class WgradSegments {
 public:
  int32_t first, steps;    // of the tile
  int32_t group, first_k;  // output channel, of the group

  __device__ __forceinline__ explicit WgradSegments(const WgradParams& params)
      : position_(first_step(params, blockIdx.x)) {}

  // The next segment of this CTA, if there is one.
  __device__ __forceinline__ bool next(const WgradParams& params) {
    const int64_t left = first_step(params, blockIdx.x + 1) - position_;
    if (left == 0) return false;
    tile_ = static_cast<int32_t>(position_ / params.steps);
    first = static_cast<int32_t>(position_ - int64_t{tile_} * params.steps);
    steps = static_cast<int32_t>(min(int64_t{params.steps - first}, left));
    position_ += steps;
    const int32_t group_tile = tile_ / params.unit_tiles;  // and tile of output channels
    first_unit_ = (tile_ - group_tile * params.unit_tiles) * Config::kUnits;
    group = group_tile / params.channel_tiles;
    first_k = (group_tile - group * params.channel_tiles) * Config::kChannels;
    return true;
  }

  // Unit i of the tile, of as many as are taken together. A tile may have fewer: then the last ones
  // again, which nobody reads.
  __device__ __forceinline__ WgradUnit unit(const WgradParams& params, int32_t i,
                                            int32_t at_once = 1) const {
    const FusedLayout& layout = params.layout;
    const int32_t unit = min(first_unit_ + i, params.units - at_once);
    const int32_t taps = params.shape.taps(), together = params.unit_slices;
    const int32_t first_slice = unit / (taps * together) * together;
    const int32_t rest = unit - first_slice * taps, tap = rest / together;
    const int32_t slice = first_slice + rest - tap * together;
    const int32_t block = slice / layout.slices;
    const int32_t in_block = (slice - block * layout.slices) * Config::kSliceChannels;
    return {tap, group * layout.group_channels + block * layout.block_channels + in_block,
            layout.block_channels - in_block};
  }

  // Whether the tile has unit i.
  __device__ __forceinline__ bool has_unit(const WgradParams& params, int32_t i) const {
    return first_unit_ + i < params.units;
  }

  // Output pixels from the begin of a step of the segment on; below 0 beyond the last one.
  __device__ __forceinline__ int32_t pixels_left(const WgradParams& params, int32_t step) const {
    return params.pixels - (first + step) * Config::kStepPixels;
  }

  // Where the sums of unit i of the tile go: vectors of a fragment, in the order of wgrad_sum.cu.
  // With each segment a CTA begins, or a tile, so that their numbers together are another each
  // time.
  __device__ __forceinline__ float4* sums(const WgradParams& params, int32_t i) const {
    constexpr int kUnitVectors = Config::kSliceChannels * Config::kChannels / 4;
    return reinterpret_cast<float4*>(params.partial) +
           (int64_t{blockIdx.x + tile_} * Config::kUnits + i) * kUnitVectors;
  }
  // A warpgroup's, of unit i.
  template <int kSums>
  __device__ __forceinline__ void store(const WgradParams& params, int32_t i, int thread,
                                        const float (&sums_of_thread)[kSums]) const {
    float4* const to = sums(params, i) + thread % 128;
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      to[j * 128] = {sums_of_thread[4 * j], sums_of_thread[4 * j + 1], sums_of_thread[4 * j + 2],
                     sums_of_thread[4 * j + 3]};
    }
  }

 private:
  int64_t position_;
  int32_t tile_, first_unit_;
};

}  // namespace dcn
