// Where the pixels of a tile sample, and which input rows that touches. Included by kernels.cpp
// alone.
#pragma once

#include "../bilinear.h"
#include "simd.h"

namespace dcn::cpu {
namespace {

// The first value of a tile's row p in a map of [N, maps, P, Q].
template <typename T>
DCN_INLINE const T* map_row(const void* data, const ConvShape& shape, int64_t maps, int64_t map,
                            const Tile& tile, int32_t p) {
  const int64_t image = int64_t{tile.n} * maps * shape.output_pixels_per_image();
  return static_cast<const T*>(data) + image + (map * shape.P + p) * shape.Q + tile.q;
}

// A row of a map as sums; `buffer` is used where the elements are narrower.
template <typename Element>
DCN_INLINE const AccType<Element>* widened_row(const SamplingMap& map, const ConvShape& shape,
                                               int64_t maps, int64_t index, const Tile& tile,
                                               int32_t p, AccType<Element>* buffer) {
  using Acc = AccType<Element>;
  if (map.wide) return map_row<Acc>(map.data, shape, maps, index, tile, p);
  const Element* row = map_row<Element>(map.data, shape, maps, index, tile, p);
  for_vectors<kNativeLanes<Acc>>(tile.width, [&](auto width, int i) {
    constexpr int kLanes = decltype(width)::value;
    store<kLanes>(buffer + i, load<kLanes>(row + i));
  });
  return buffer;
}

// A loop without branches or calls, which the compiler turns into vectors.
template <typename Acc>
DCN_INLINE void plan_positions(const Acc* __restrict y, const Acc* __restrict x, int32_t H,
                               int32_t W, int32_t pixels, SamplePlan<Acc>* __restrict plan) {
  for (int32_t i = 0; i < pixels; ++i) {
    const Sample<Acc> sample = make_sample<Acc>(y[i], x[i], H, W);
    plan->pixel[i] = sample.y0 * W + sample.x0;
    plan->corners[i] = sample.corners;
    plan->fill[i] = sample.fill;
    plan->ly[i] = sample.ly;
    plan->lx[i] = sample.lx;
    for (int k = 0; k < 4; ++k) plan->weight[k][i] = sample.weight(k);
  }
}

// Brings the rows of a tile's part of a map towards the cache. Each row lies on a memory page of
// its own, where no hardware prefetcher looks ahead, and with many offset groups there are hundreds
// of maps.
template <typename Element>
DCN_INLINE void prefetch(const SamplingMap& map, const ConvShape& shape, int64_t maps,
                         int64_t index, const Tile& tile) {
  const int size = map.wide ? sizeof(AccType<Element>) : sizeof(Element);
  const char* row = static_cast<const char*>(map.data) +
                    ((int64_t{tile.n} * maps + index) * shape.output_pixels_per_image() +
                     int64_t{tile.p} * shape.Q + tile.q) *
                        size;
  for (int32_t h = 0; h < tile.height; ++h) {
    __builtin_prefetch(row);
    __builtin_prefetch(row + tile.width * size - 1);
    row += int64_t{shape.Q} * size;
  }
}

template <typename Element>
void plan_samples(const PlanParams& params, SamplePlan<AccType<Element>>& plan) {
  using Acc = AccType<Element>;
  constexpr int kNative = kNativeLanes<Acc>;
  const ConvShape& shape = params.shape;
  const Tile& tile = params.tile;
  const SamplingMap &offset = params.offset, &mask = params.mask;
  const int64_t samples = int64_t{shape.D} * shape.taps();
  const int64_t index = int64_t{params.offset_group} * shape.taps() + params.tap;
  if (index + 1 < samples) {
    prefetch<Element>(offset, shape, 2 * samples, 2 * index + 2, tile);
    prefetch<Element>(offset, shape, 2 * samples, 2 * index + 3, tile);
    if (mask.data) prefetch<Element>(mask, shape, samples, index + 1, tile);
  }
  const int32_t r = params.tap / shape.S, s = params.tap % shape.S;
  alignas(64) Acc y[kMaxTilePixels], x[kMaxTilePixels], buffer[kMaxTilePixels];
  alignas(64) Acc origin_x[kMaxTilePixels];
  for (int32_t j = 0; j < tile.width; ++j) {
    origin_x[j] = static_cast<Acc>(shape.origin_x(tile.q + j, s));
  }
  for (int32_t h = 0; h < tile.height; ++h) {
    const int32_t p = tile.p + h, first = h * tile.width;
    const Acc origin_y = static_cast<Acc>(shape.origin_y(p, r));
    const Acc* row = widened_row<Element>(offset, shape, 2 * samples, 2 * index, tile, p, buffer);
    for_vectors<kNative>(tile.width, [&](auto width, int j) {
      constexpr int kLanes = decltype(width)::value;
      store<kLanes>(y + first + j, origin_y + load<kLanes>(row + j));
    });
    row = widened_row<Element>(offset, shape, 2 * samples, 2 * index + 1, tile, p, buffer);
    for_vectors<kNative>(tile.width, [&](auto width, int j) {
      constexpr int kLanes = decltype(width)::value;
      store<kLanes>(x + first + j, load<kLanes>(origin_x + j) + load<kLanes>(row + j));
    });
    if (mask.data) {
      row = widened_row<Element>(mask, shape, samples, index, tile, p, buffer);
      for_vectors<kNative>(tile.width, [&](auto width, int j) {
        constexpr int kLanes = decltype(width)::value;
        store<kLanes>(plan.mask + first + j, load<kLanes>(row + j));
      });
    }
  }
  if (!mask.data) {
    for (int32_t i = 0; i < tile.pixels(); ++i) plan.mask[i] = Acc(1);
  }
  plan_positions(y, x, shape.H, shape.W, tile.pixels(), &plan);
}

// Only samples inside have corners, so -1 < y < H bounds the rows; truncation of such a y is its
// upper or only row.
template <typename Element>
RowRange reached_rows(const ConvShape& shape, const SamplingMap& offset, const Tile& tile) {
  using Acc = AccType<Element>;
  const int64_t samples = int64_t{shape.D} * shape.taps();
  alignas(64) Acc buffer[kMaxTilePixels];
  Acc low = static_cast<Acc>(shape.H), high = Acc(-1);
  for (int64_t index = 0; index < samples; ++index) {
    const int32_t r = static_cast<int32_t>(index % shape.taps()) / shape.S;
    for (int32_t p = tile.p; p < tile.p + tile.height; ++p) {
      const Acc* row = widened_row<Element>(offset, shape, 2 * samples, 2 * index, tile, p, buffer);
      const Acc origin = static_cast<Acc>(shape.origin_y(p, r));
      for (int32_t j = 0; j < tile.width; ++j) {
        const Acc y = origin + row[j];
        const bool inside = y > Acc(-1) && y < static_cast<Acc>(shape.H);
        low = inside && y < low ? y : low;
        high = inside && y > high ? y : high;
      }
    }
  }
  const int32_t first = low > 0 ? static_cast<int32_t>(low) : 0;
  const int32_t last = high > Acc(-1) ? static_cast<int32_t>(high) + 1 : -1;
  const int32_t end = last + 1 < shape.H ? last + 1 : shape.H;
  return {first < end ? first : end, end};
}

}  // namespace
}  // namespace dcn::cpu
