// The fused input gradient on compute capability 9.0: an implicit GEMM of the forward pass' shape,
// from grad to the image, whose A collects the samples that touch a pixel (block_gather.cuh).
#pragma once

#include "../fused/gather_gemm_sm90.cuh"
#include "block_gather.cuh"
#include "dgrad_own_sum.cuh"
#include "irregular_gather.cuh"

namespace dcn {

template <class Math_, int kTile>
struct DgradConfig : AllTiles {
  using Math = Math_;
  using Params = DgradParams;
  using Output = OutputTile<Math>;
  static constexpr FpropTile tile = kDgradTiles[kTile];
  static constexpr int kTileChannels = tile.channels;
  static constexpr int kTilePixels = tile.pixels;
  static constexpr int kThreads = 2 * kTilePixels;
  static constexpr int kTileBytes = weight_tile_bytes(tile, Math::kKind);
  static constexpr int kPlanBytes = block_plan_bytes(Math::kKind);  // of a warp
  static constexpr bool kOddRowsSwapped = false;
  static constexpr uint32_t kRunRows = kBlockSide;
  static constexpr bool kExactSums = Math::kKind == FusedMath::k3xTf32;
  static constexpr bool kOverlap = tile.overlap && !kExactSums;
  static constexpr bool kStartsInPlan = false, kWaitsInStep = false;
  static constexpr bool kKeepsInfinity = false;  // the second kernel does
  using Gather = BlockGather<Math, tile.rows_in_flight>;
  static constexpr int kPackedParts = weight_parts(Math::kKind);
  using Weights = WeightRing<kTileBytes, kPackedParts, tile.stages, kThreads / 32>;

  static int64_t rows(const DgradParams& params) { return dgrad_rows(params.shape); }
  static __device__ __forceinline__ TileRow row_at(const DgradParams& params, uint32_t first,
                                                   uint32_t row) {
    const BlockWalk& walk = params.blocks;
    const uint32_t inside = row % kWarpPixels;
    uint32_t rest = min(first + row, params.pixels - 1) / kWarpPixels;
    const uint32_t n = walk.image.quotient(rest);
    rest -= n * walk.image.value;
    const uint32_t strip = walk.strip.quotient(rest);
    rest -= strip * walk.strip.value;
    const bool single = 2 * strip + 1 == walk.height;  // the last strip may be
    const uint32_t left = single ? rest : rest / 2, top = 2 * strip + (single ? 0 : rest % 2);
    const OutputPixel at{static_cast<int32_t>(n),
                         static_cast<int32_t>(top * kBlockSide + inside / kBlockSide),
                         static_cast<int32_t>(left * kBlockSide + inside % kBlockSide)};
    return {at, first + row < params.pixels && at.p < params.shape.P && at.q < params.shape.Q};
  }

  // Lists the tile of a warp for the second kernel, where its samples did not fit or a sum is no
  // number: where a value is none, no sum of its row is one. (A warp beyond the last pixel gathers
  // the last block once more, and has no tile to list.)
  template <class Sums>
  static __device__ __forceinline__ void ended(const DgradParams& params, Gather& gather,
                                               int32_t tile, const Sums& sums) {
    const bool numbers = fabsf(sums[0]) < INFINITY && fabsf(sums[2]) < INFINITY;
    if (__all_sync(~0u, gather.end_tile() && numbers) || threadIdx.x % 32 != 0) return;
    const uint32_t first = static_cast<uint32_t>(tile) * kTilePixels + threadIdx.x / 2;
    if (first >= params.pixels) return;
    const int32_t tiles = tiles_of(params.pixels, kIrregularPixels);
    const auto found = static_cast<int32_t>(first / kIrregularPixels);
    IrregularTiles& irregular = *params.irregular;
    if (atomicExch(irregular.flags() + found, 1) == 0) {
      irregular.list(tiles)[atomicAdd(&irregular.count, 1)] = found;
    }
  }
  static int64_t shared_bytes(int64_t, int) { return dgrad_shared_bytes(tile, Math::kKind); }
};

// The second kernel, which overwrites the listed tiles. They are few, and their steps may be long:
// a cluster has a tile, and its CTAs walk on to the next one.
template <class Math>
struct IrregularDgradConfig : DgradConfig<Math, 0> {
  using Base = DgradConfig<Math, 0>;
  static_assert(kDgradTiles[0].pixels == kIrregularPixels);
  using Output = MergedOutput<Math, DgradOwnSum<Math>>;
  using Gather = IrregularGather<Math>;
  using Weights = WeightRing<Base::kTileBytes, weight_parts(Math::kKind), kIrregularStages,
                             Base::kThreads / 32>;
  static constexpr bool kKeepsInfinity = true;
  static constexpr bool kOverlap = false;

  static __device__ __forceinline__ int32_t tiles(const DgradParams& params) {
    ptx::wait_for_previous_grid();
    return params.irregular->count;
  }
  static __device__ __forceinline__ int32_t tile_of(const DgradParams& params, int32_t turn) {
    return params.irregular->list(tiles_of(params.pixels, kIrregularPixels))[turn];
  }
  template <class Sums>
  static __device__ __forceinline__ void ended(const DgradParams&, Gather&, int32_t, const Sums&) {}

  static constexpr bool kSumsOverPlans = true;  // weights of the next tile are on their way
  static int64_t most_columns(const DgradParams& params, int64_t rows, int multiprocessors) {
    constexpr int kResident = irregular_resident(Math::kKind);
    return std::max<int64_t>(kResident * clusters_at_once(multiprocessors, params.split_k) / rows,
                             1);
  }
  static int64_t shared_bytes(int64_t, int) { return irregular_shared_bytes(Math::kKind); }
};

template <class Math, int... kTile>
cudaError_t launch_dgrad_tile(DgradParams params, int tile, int multiprocessors,
                              cudaStream_t stream, std::integer_sequence<int, kTile...>) {
  cudaError_t result = cudaErrorInvalidValue;  // no such tile
  params.plane_starts = (params.shape.P + 1) * (params.shape.Q + 1) + 1;
  const auto height = static_cast<uint32_t>(blocks_of(params.shape.P));
  const auto width = static_cast<uint32_t>(blocks_of(params.shape.Q));
  params.blocks = {height, width, Divisor(height * width), Divisor(2 * width)};
  if (tile == kIrregularDgrad) {
    params.channels_of_tile = kDgradTiles[0].channels;
    params.split_k = std::min(kMostParts, params.layout.steps);
    return launch_gather_gemm<IrregularDgradConfig<Math>>(params, multiprocessors, stream);
  }
  params.channels_of_tile = kDgradTiles[tile].channels;
  const auto launch_if = [&](auto index) {
    if constexpr (dgrad_tile_exists(kDgradTiles[index()], Math::kKind)) {
      if (tile == index()) {
        result = launch_gather_gemm<DgradConfig<Math, index()>>(params, multiprocessors, stream);
      }
    }
  };
  (launch_if(std::integral_constant<int, kTile>{}), ...);
  return result;
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_dgrad_math(const DgradParams& params, int tile, int multiprocessors,
                              cudaStream_t stream) {
  return launch_dgrad_tile<Math>(params, tile, multiprocessors, stream,
                                 std::make_integer_sequence<int, kDgradTileCount>{});
}

}  // namespace dcn
