// The fused input gradient on compute capability 9.0: an implicit GEMM of the forward pass' shape,
// from grad to the image, whose A collects the samples that touch a pixel (list_gather.cuh).
#pragma once

#include "gather_gemm_sm90.cuh"
#include "list_gather.cuh"

namespace dcn {

template <class Math_, int kTile>
struct DgradConfig : AllTiles {
  using Math = Math_;
  using Params = DgradParams;
  static constexpr FpropTile tile = kDgradTiles[kTile];
  static constexpr int kTileChannels = tile.channels;
  static constexpr int kTilePixels = tile.pixels;
  static constexpr int kThreads = 2 * kTilePixels;
  static constexpr int kTileBytes = weight_tile_bytes(tile, Math::kKind);
  static constexpr int kPlanBytes = kListPlanBytes;  // of a warp
  static constexpr bool kExactSums = Math::kKind == FusedMath::k3xTf32;
  static constexpr bool kOverlap = tile.overlap && !kExactSums;
  using Gather = ListGather<Math, kExactSums ? 1 : tile.rows_in_flight, false>;
  using Weights =
      WeightRing<kTileBytes, weight_parts(Math::kKind), tile.stages, kThreads / 32>;

  // Lists the tile of a warp for the second kernel. All CTAs of a tile of pixels find the same.
  static __device__ __forceinline__ void begun(const DgradParams& params, const Gather& gather,
                                               int32_t tile) {
    if (gather.regular() || threadIdx.x % 32 != 0) return;
    const int32_t tiles = tiles_of(params.pixels, kIrregularPixels);
    const int32_t found = (tile * kTilePixels + threadIdx.x / 2) / kIrregularPixels;
    IrregularTiles& irregular = *params.irregular;
    if (atomicExch(irregular.flags() + found, 1) == 0) {
      irregular.list(tiles)[atomicAdd(&irregular.count, 1)] = found;
    }
  }
  static int64_t shared_bytes(int64_t) { return dgrad_shared_bytes(tile, Math::kKind); }
};

// The second kernel, which overwrites the listed tiles.
template <class Math>
struct IrregularDgradConfig : DgradConfig<Math, 0> {
  static_assert(kDgradTiles[0].pixels == kIrregularPixels);
  using Gather = ListGather<Math, 1, true>;
  static constexpr bool kOverlap = false;

  static __device__ __forceinline__ int32_t tiles(const DgradParams& params) {
    ptx::wait_for_previous_grid();
    return params.irregular->count;
  }
  static __device__ __forceinline__ int32_t tile_of(const DgradParams& params, int32_t turn) {
    return params.irregular->list(tiles_of(params.pixels, kIrregularPixels))[turn];
  }
  static __device__ __forceinline__ void begun(const DgradParams&, const Gather&, int32_t) {}
};

template <class Math, int... kTile>
cudaError_t launch_dgrad_tile(DgradParams params, int tile, int multiprocessors,
                              cudaStream_t stream, std::integer_sequence<int, kTile...>) {
  cudaError_t result = cudaErrorInvalidValue;  // no such tile
  params.channels_of_tile = kDgradTiles[tile].channels;
  params.walk = pixel_walk(params.shape, kDgradTiles[tile].pixels / kWarpPixels);
  const auto launch_if = [&](auto index) {
    if constexpr (dgrad_tile_exists(kDgradTiles[index()], Math::kKind)) {
      if (tile == index()) {
        result = launch_gather_gemm<DgradConfig<Math, index()>>(params, multiprocessors, stream);
      }
    }
  };
  (launch_if(std::integral_constant<int, kTile>{}), ...);
  if (result != cudaSuccess) return result;
  params.channels_of_tile = kDgradTiles[0].channels;
  params.split_k = 1;
  return launch_gather_gemm<IrregularDgradConfig<Math>>(params, multiprocessors, stream);
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_dgrad_math(const DgradParams& params, int tile, int multiprocessors,
                              cudaStream_t stream) {
  return launch_dgrad_tile<Math>(params, tile, multiprocessors, stream,
                                 std::make_integer_sequence<int, kDgradTileCount>{});
}

}  // namespace dcn
