// Where a tile's samples are, if not about its pixels: offsets may lead them all to some other
// place. When the windows of late have missed most samples, the next one is laid around the mean of
// its samples instead. That costs another pass through the maps, so it is not tried again soon if
// they lie about the tile after all.
#pragma once

#include "scatter_sampling.cuh"

namespace dcn {

constexpr int32_t kPatience = 32 * kScatterSamples;  // samples astray, till it is tried again

template <class Math>
class ScatterSeeker : public ScatterSampling<Math> {
 public:
  using Base = ScatterSampling<Math>;
  using Base::first_map, Base::kTurns, Base::params_, Base::shared_;
  using typename Base::Pixel;
  using typename Base::Shared;

  __device__ __forceinline__ ScatterSeeker(const ScatterParams& params, ScatterTile& tile,
                                           const Shared& shared)
      : Base(params, tile, shared), window_(tile) {}

  // Whether the window is elsewhere now, as it may have been before. For all threads; places of
  // taps are known (begin).
  __device__ __forceinline__ bool run(int32_t first_tap, int32_t taps) const {
    const ConvShape& shape = params_.shape;
    int32_t* const sums = shared_.astray() + 1;  // of rows, of columns; how many
    if (threadIdx.x < 3) sums[threadIdx.x] = 0;
    __syncthreads();
    const Pixel own(shape, window_);
    int32_t down = 0, across = 0, count = 0;
    ScatterMaps<Math, false> maps(params_, own.at, first_map(own, first_tap), kTurns);
    for (int32_t tap = own.turn; tap < taps; tap += kTurns) {
      const LoadedMaps loaded = maps.next();
      const float2 place = shared_.tap_place()[tap];
      const float y = (static_cast<float>(shape.origin_y(own.at.p, 0)) + place.x) + maps.dy(loaded);
      const float x = (static_cast<float>(shape.origin_x(own.at.q, 0)) + place.y) + maps.dx(loaded);
      if (!own.exists || !(y > -1.f && y < shape.H && x > -1.f && x < shape.W)) continue;
      // From the window on, so that sums are no larger than they need be.
      down += static_cast<int32_t>(y) - window_.bin_y;
      across += static_cast<int32_t>(x) - window_.bin_x;
      ++count;
    }
    atomicAdd(sums, down);
    atomicAdd(sums + 1, across);
    atomicAdd(sums + 2, count);
    __syncthreads();
    const int32_t samples = max(sums[2], 1), rows = params_.window.rows,
                  columns = params_.window.columns;
    const int32_t y = sums[0] / samples - rows / 2, x = sums[1] / samples - columns / 2;
    if (far(y, x) && threadIdx.x == 0) window_.bin_y += y, window_.bin_x += x;
    __syncthreads();
    return elsewhere();
  }

  // Whether the window is not about the tile.
  __device__ __forceinline__ bool elsewhere() const {
    const ConvShape& shape = params_.shape;
    return far(window_.bin_y - shape.origin_y(window_.p, 0) + params_.window.halo_rows,
               window_.bin_x - shape.origin_x(window_.q, 0) + params_.window.halo_columns);
  }

 private:
  static __device__ __forceinline__ bool far(int32_t y, int32_t x) {
    return max(abs(y), abs(x)) > kHalo;
  }

  ScatterTile& window_;
};

}  // namespace dcn
