// What the launchers of the weight gradient share.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../fused/fused_samples.cuh"
#include "../kernel_setup.h"
#include "wgrad_params.h"

namespace dcn {

cudaError_t launch_wgrad_sum(const WgradParams& params, FusedMath math, cudaStream_t stream);

// Rows of cells of pixels: a slice of a cell's neighbourhood is what the L1 keeps.
constexpr uint32_t kWgradCellHeight = 4;

// Fills in what follows from the shape and the tile.
inline void lay_out_steps(WgradParams& params) {
  const ConvShape& shape = params.shape;
  const WgradTile& tile = kWgradTiles[params.tile];
  const WgradWork work = wgrad_work(shape, params.layout, tile);
  params.tile_units = tile.units;
  params.tile_channels = tile.channels;
  params.pixels = static_cast<uint32_t>(shape.output_pixels());
  params.units = params.layout.steps;
  params.unit_slices = slices_at_once(params.layout, tile);
  params.unit_tiles = static_cast<int32_t>(work.unit_tiles);
  params.channel_tiles = static_cast<int32_t>(work.channel_tiles);
  params.steps = static_cast<int32_t>(work.steps);
  params.all_steps = work.all_steps();
  if (params.early_ctas == 0) {
    params.early_ctas = params.ctas;
    params.early_steps = params.all_steps;
  }
  params.walk = pixel_walk(shape, kWgradCellHeight);
  params.kernel_width = Divisor(shape.S);
}

// Calls `launch` with the tile's index as a type, if the tile is compiled for this kind of
// arithmetic.
template <class Math, class Launch, int... kTile>
cudaError_t with_wgrad_tile(int tile, Launch launch, std::integer_sequence<int, kTile...>) {
  cudaError_t result = cudaErrorInvalidValue;  // no such tile
  const auto launch_if = [&](auto index) {
    if constexpr (step_ns(kWgradTiles[index()], Math::kKind) > 0) {
      if (tile == index()) result = launch(index);
    }
  };
  (launch_if(std::integral_constant<int, kTile>{}), ...);
  return result;
}
template <class Math, class Launch>
cudaError_t with_wgrad_tile(int tile, Launch launch) {
  return with_wgrad_tile<Math>(tile, launch, std::make_integer_sequence<int, kWgradTileCount>{});
}

template <class Config, auto kKernel>
cudaError_t launch_wgrad_config(const WgradParams& params, cudaStream_t stream) {
  return launch_kernel<kKernel>(params.ctas, Config::kThreads, Config::kSharedBytes, stream,
                                params);
}

}  // namespace dcn
