// The fused forward pass on compute capability 9.0: samples are the values that are gathered.
#pragma once

#include <type_traits>

#include "../fused/fused_gather.cuh"
#include "../fused/gather_gemm_sm90.cuh"
#include "../fused/split_weights.cuh"
#include "window_gather.cuh"

namespace dcn {

// kWhole: 3xTF32 with a weight that is packed in one part.
template <class Math_, int kTile, bool kWhole = false>
struct FpropConfig : AllTiles {
  using Math = Math_;
  using Params = FpropParams;
  using Output = OutputTile<Math>;
  static constexpr FpropTile tile = kFpropTiles[kTile];
  static constexpr int kTileChannels = tile.channels;
  static constexpr int kTilePixels = tile.pixels;
  static constexpr int kSetThreads = 2 * kTilePixels;  // of warps that take turns with others
  static constexpr int kThreads = tile.turns * kSetThreads;
  static constexpr int kTileBytes = weight_tile_bytes(tile, Math::kKind);
  static constexpr int kPlanBytes = warp_bytes(tile);
  static constexpr bool kOddRowsSwapped = true;
  // Rows of a narrow tile are no neighbours (window_pixel).
  static constexpr uint32_t kRunRows = tile.narrow ? 1 : kWarpPixels;
  static constexpr bool kExactSums = Math::kKind == FusedMath::k3xTf32;
  static constexpr int kRowsInFlight = kExactSums ? 1 : tile.rows_in_flight;
  // 3xTF32 has no registers to hold the fragments of two steps.
  static constexpr bool kOverlap = tile.overlap && !kExactSums;
  static constexpr bool kStartsInPlan = !tile.narrow;
  // Narrow tiles plan the samples of a step while the one before is multiplied.
  static constexpr bool kWaitsInStep = tile.narrow;
  using Gather = std::conditional_t<
      tile.narrow, WindowGather<Math, window_pixels(tile)>,
      WideGather<Math, kRowsInFlight, 1, tile.turns == 1 ? 0 : kSetThreads / 32>>;
  static constexpr bool kSplitsWeights = kWhole;
  static constexpr int kPackedParts = kWhole ? 1 : weight_parts(Math::kKind);
  using Resident = std::conditional_t<kSplitsWeights, SplitResidentWeights<kTileBytes, kThreads>,
                                      ResidentWeights<kTileBytes, kPackedParts>>;
  using Ring =
      std::conditional_t<kSplitsWeights, SplitWeightRing<kTileBytes, tile.stages, kSetThreads / 32>,
                         WeightRing<kTileBytes, kPackedParts, tile.stages, kSetThreads / 32>>;
  using Weights = std::conditional_t<tile.stages == 0, Resident, Ring>;

  static __device__ __forceinline__ TileRow row_at(const FpropParams& params, uint32_t first,
                                                   uint32_t row) {
    if (!tile.narrow) return tile_row(params, first, row);
    return cell_row(params, first / kTilePixels, row);
  }

  template <class Sums>
  static __device__ __forceinline__ void ended(const FpropParams&, Gather&, int32_t, const Sums&) {}
  static int64_t shared_bytes(int64_t steps, int parts) {
    return dcn::shared_bytes(tile, Math::kKind, steps, parts);
  }
};

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_fprop_math(const FpropParams& params, int tile, int multiprocessors,
                              cudaStream_t stream) {
  return with_tile<90, Math>(tile, [&](auto index) {
    if constexpr (weight_parts(Math::kKind) == 2) {
      if (params.whole) {
        return launch_gather_gemm<FpropConfig<Math, index(), true>>(params, multiprocessors,
                                                                    stream);
      }
    }
    return launch_gather_gemm<FpropConfig<Math, index()>>(params, multiprocessors, stream);
  });
}

}  // namespace dcn
