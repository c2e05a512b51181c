// What the launchers of the fused forward kernels share: the walk of a grid, and the choice of a
// compiled tile.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../fused/fused_samples.cuh"

namespace dcn {

// Fills in what follows from the shape and the tile; returns the grid. `rows`: of all tiles.
inline dim3 lay_out_grid(FpropParams& params, int64_t rows, const FpropTile& tile, int ctas,
                         int multiprocessors) {
  const ConvShape& shape = params.shape;
  const int64_t per_group = tiles_of(shape.output_channels_per_group(), tile.channels);
  const int64_t channel_tiles = shape.G * per_group;
  params.pixels = static_cast<uint32_t>(rows);
  params.pixel_tiles = static_cast<int32_t>(tiles_of(rows, tile.pixels));
  if (params.walk.cell_height == 0) {
    params.walk = pixel_walk(shape, tile.pixels / kWarpPixels);
  }
  if (tile.narrow && tile.architecture == 90) {
    const int64_t at_once = params.split_k > 1 ? clusters_at_once(multiprocessors, params.split_k)
                                               : int64_t{multiprocessors} * ctas;
    const WindowCells cells =
        window_cells(shape, tile, std::max<int64_t>(at_once / channel_tiles, 1));
    params.cells = cell_walk(shape, cells);
    params.pixel_tiles = static_cast<int32_t>(tiles_in(shape, cells));
  }
  params.channel_tiles = Divisor(static_cast<uint32_t>(per_group));
  params.kernel_width = Divisor(shape.S);
  params.taps = Divisor(shape.taps());
  params.offset_group = Divisor(params.layout.offset_channels);
  params.part_steps = params.layout.steps / params.split_k;
  params.longer_parts = params.layout.steps % params.split_k;
  // Where sums are exchanged, a CTA needs its shared memory at the end, and no weights of a tile to
  // come.
  const bool exchanges = params.split_k > 1 || tile.turns > 1;
  const int64_t room =
      exchanges ? params.pixel_tiles : int64_t{multiprocessors} * ctas / channel_tiles;
  const int64_t columns = std::max<int64_t>(std::min<int64_t>(params.pixel_tiles, room), 1);
  return dim3(static_cast<unsigned>(columns), static_cast<unsigned>(channel_tiles),
              static_cast<unsigned>(params.split_k));
}

// Calls `launch` with the tile's index as a type, if the tile is compiled for this architecture and
// kind of arithmetic.
template <int kArchitecture, class Math, class Launch, int... kTile>
cudaError_t with_tile(int tile, Launch launch, std::integer_sequence<int, kTile...>) {
  cudaError_t result = cudaErrorInvalidValue;  // no such tile
  const auto launch_if = [&](auto index) {
    constexpr FpropTile kCandidate = kFpropTiles[index()];
    if constexpr (kCandidate.architecture == kArchitecture &&
                  tile_exists(kCandidate, Math::kKind)) {
      if (tile == index()) result = launch(index);
    }
  };
  (launch_if(std::integral_constant<int, kTile>{}), ...);
  return result;
}
template <int kArchitecture, class Math, class Launch>
cudaError_t with_tile(int tile, Launch launch) {
  return with_tile<kArchitecture, Math>(tile, launch,
                                        std::make_integer_sequence<int, kFpropTileCount>{});
}

}  // namespace dcn
