// Samples as the fused kernels plan them: where a row of a tile is, and what one sample reads.
#pragma once

#include "../sampling.cuh"
#include "fused_math.cuh"
#include "fused_params.h"

namespace dcn {

using ptx::kept;
using ptx::unkept;

// The walk over output pixels: tiles go through an image in cells of `cell_height` rows of 16
// pixels, so that a tile's samples meet in the L1. The last strip of cells may be lower, the last
// cell of a strip narrower.
inline PixelWalk pixel_walk(const ConvShape& shape, uint32_t cell_height) {
  const uint32_t last_height = (shape.P - 1) % cell_height + 1;
  PixelWalk walk;
  walk.cell_height = cell_height;
  walk.last_strip = (shape.P - 1) / cell_height;
  walk.image = Divisor(shape.output_pixels_per_image());
  walk.strip = Divisor(cell_height * shape.Q);
  walk.cell = Divisor(cell_height * kWarpPixels);
  walk.last_cell = Divisor(last_height * kWarpPixels);
  walk.last_left = (shape.Q - 1) / kWarpPixels * kWarpPixels;
  const uint32_t width = shape.Q - walk.last_left;
  walk.last_width = ((1u << 16) + width - 1) / width;
  return walk;
}

__device__ __forceinline__ OutputPixel pixel_at(const ConvShape& shape, const PixelWalk& walk,
                                                uint32_t index) {
  const uint32_t n = walk.image.quotient(index);
  uint32_t rest = index - n * walk.image.value;
  const uint32_t strip = walk.strip.quotient(rest);
  rest -= strip * walk.strip.value;
  const Divisor& cells = strip == walk.last_strip ? walk.last_cell : walk.cell;
  const uint32_t cell = cells.quotient(rest);
  rest -= cell * cells.value;
  const uint32_t left = cell * kWarpPixels;
  const bool whole = left != walk.last_left;
  const uint32_t width = whole ? kWarpPixels : shape.Q - walk.last_left;
  // A cell has fewer than 2^12 pixels: the quotient is exact.
  const uint32_t row = rest * (whole ? (1u << 16) / kWarpPixels : walk.last_width) >> 16;
  return {static_cast<int32_t>(n), static_cast<int32_t>(strip * walk.cell_height + row),
          static_cast<int32_t>(left + rest - row * width)};
}

// A warp multiplies 16 rows of a tile, pixels of the output: lane (g, q) = (lane / 4, lane % 4)
// holds vectors of rows g and g + 8. This is the output pixel of a row.
struct TileRow {
  OutputPixel at;
  bool exists;  // false beyond the last pixel; `at` is then the last
};

__device__ __forceinline__ TileRow tile_row(const FpropParams& params, uint32_t first,
                                            uint32_t row) {
  const uint32_t index = first + row;
  return {pixel_at(params.shape, params.walk, min(index, params.pixels - 1)),
          index < params.pixels};
}

inline CellWalk cell_walk(const ConvShape& shape, const WindowCells& cells) {
  const auto divisor = [](int32_t value) {
    return Divisor(static_cast<uint32_t>(value > 0 ? value : 1));
  };
  CellWalk walk;
  walk.tall_tiles = static_cast<int32_t>(tall_tiles(shape, cells));
  walk.tall_rows = cells.tall_rows;
  walk.rows = cells.rows;
  walk.columns = divisor(cells.columns);
  walk.tall_strips = divisor(cells.tall_strips);
  walk.strips = divisor(cells.strips - cells.tall_strips);
  return walk;
}

// The order of a warp's pixels in such a tile: rows g and g + 8 are neighbours, and lanes whose
// vectors are the first of a pair (window_maps.cuh) have 8 pixels side by side.
__device__ __forceinline__ int32_t window_pixel(int32_t row) {
  return (row & 1) << 3 | (row & 6) | (row & 8) >> 3;
}
// The last cell of a strip begins early enough to be whole: what it shares with the one before is
// not its own.
__device__ __forceinline__ TileRow cell_row(const FpropParams& params, int32_t tile, int32_t row) {
  const ConvShape& shape = params.shape;
  const CellWalk& walk = params.cells;
  const bool tall = tile < walk.tall_tiles;
  const int32_t rest = tall ? tile : tile - walk.tall_tiles;
  const int32_t strip_of_all = walk.columns.quotient(rest);
  const int32_t left = (rest - strip_of_all * walk.columns.value) * kWarpPixels;
  const Divisor& strips = tall ? walk.tall_strips : walk.strips;
  const int32_t n = strips.quotient(strip_of_all), strip = strip_of_all - n * strips.value;
  const int32_t tall_rows = walk.tall_tiles > 0 ? walk.tall_strips.value * walk.tall_rows : 0;
  const int32_t top = tall ? strip * walk.tall_rows : tall_rows + strip * walk.rows;
  const int32_t last = min(top + (tall ? walk.tall_rows : walk.rows), shape.P) - 1;
  const int32_t p = top + row / kWarpPixels;
  const int32_t q = max(min(left, shape.Q - kWarpPixels), 0) + window_pixel(row % kWarpPixels);
  return {{n, min(p, last), min(q, shape.Q - 1)}, p <= last && q >= left && q < shape.Q};
}

struct FusedSample {
  uint4 corner;  // byte offsets of the four corners from `image_base`
  float4 weight;
  bool outside;  // worth 0, whatever is read
};

// Where a paired sample (bilinear.h) is read.
__device__ __forceinline__ FusedSample fused_sample(float y, float x, float mask, int32_t H,
                                                    int32_t W, uint32_t row_bytes,
                                                    uint32_t pixel_bytes, uint32_t image_base) {
  const PairedSample sample = make_paired_sample(y, x, mask, H, W);
  const uint32_t row0 = image_base + sample.y0 * row_bytes;
  const uint32_t row1 = sample.two_rows ? row0 + row_bytes : row0;
  const uint32_t column0 = sample.x0 * pixel_bytes;
  const uint32_t column1 = sample.two_columns ? column0 + pixel_bytes : column0;
  return {{row0 + column0, row0 + column1, row1 + column0, row1 + column1},
          {sample.weight[0], sample.weight[1], sample.weight[2], sample.weight[3]},
          sample.outside};
}

// Between loads and their use: without it the compiler converts values in the branches in which
// they are loaded, so that a load is waited for before the next one is issued.
template <int kRounds, int kCount>
__device__ __forceinline__ void take_loaded(uint32_t (&loaded)[kRounds][kCount]) {
#pragma unroll
  for (auto& round : loaded) {
#pragma unroll
    for (uint32_t& value : round) ptx::take(value);
  }
}

// A map at one output pixel, channel by channel. Values are f32, or of the image's 16-bit type.
// Loading and reading are apart, so that many loads are on their way before one is waited for.
template <class Math>
class MapCursor {
 public:
  __device__ __forceinline__ MapCursor(const SamplingMap& map, OutputPixel at, int32_t channel)
      : narrow_(sizeof(Element) == 2 && map.dtype != Dtype::kF32), absent_(map.data == nullptr) {
    const int shift = narrow_ ? 1 : 2;
    step_ = int64_t{map.stride_c} << shift;
    at_ = static_cast<const uint8_t*>(map.data) + (map_index(map, at, channel) << shift);
  }

  // The value `ahead` channels further on, 0 where a map is absent.
  __device__ __forceinline__ uint32_t load(int ahead) const {
    const uint8_t* from = at_ + ahead * step_;
    if (absent_) return 0;
    if (narrow_) return __ldg(reinterpret_cast<const uint16_t*>(from));
    return __ldg(reinterpret_cast<const uint32_t*>(from));
  }
  // kCount values for each round, kApart channels between rounds, 0 where !exists(round); 1 where
  // the map is absent. One branch decides of which type all are; what is loaded has to be taken
  // (take_loaded) before it is used.
  template <int kRounds, int kCount, int kApart, class Exists>
  __device__ __forceinline__ void load_rounds(uint32_t (&loaded)[kRounds][kCount],
                                              Exists exists) const {
    if (absent_) {
#pragma unroll
      for (auto& round : loaded) {
#pragma unroll
        for (uint32_t& value : round) value = one();
      }
    } else if (narrow_) {
      load_all<uint16_t, kApart>(loaded, exists);
    } else {
      load_all<uint32_t, kApart>(loaded, exists);
    }
  }
  template <typename Word, int kApart, int kRounds, int kCount, class Exists>
  __device__ __forceinline__ void load_all(uint32_t (&loaded)[kRounds][kCount],
                                           Exists exists) const {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        const uint8_t* from = at_ + (i * kApart + c) * step_;
        loaded[i][c] = exists(i) ? __ldg(reinterpret_cast<const Word*>(from)) : 0;
      }
    }
  }
  // The same for offsets and masks, kTaps taps between rounds. Where both are of one type, one
  // branch decides: between two, what the first one loaded would be waited for.
  template <int kRounds, int kTaps, class Exists>
  static __device__ __forceinline__ void load_both(const MapCursor& offset, const MapCursor& mask,
                                                   uint32_t (&shift)[kRounds][2],
                                                   uint32_t (&modulation)[kRounds][1],
                                                   Exists exists) {
    if (mask.absent_ || offset.narrow_ != mask.narrow_) {
      offset.template load_rounds<kRounds, 2, 2 * kTaps>(shift, exists);
      mask.template load_rounds<kRounds, 1, kTaps>(modulation, exists);
    } else if (offset.narrow_) {
      offset.template load_all<uint16_t, 2 * kTaps>(shift, exists);
      mask.template load_all<uint16_t, kTaps>(modulation, exists);
    } else {
      offset.template load_all<uint32_t, 2 * kTaps>(shift, exists);
      mask.template load_all<uint32_t, kTaps>(modulation, exists);
    }
  }
  __device__ __forceinline__ float value(uint32_t loaded) const {
    if constexpr (sizeof(Element) == 2) {
      if (narrow_) return Math::wide(loaded);
    }
    return __uint_as_float(loaded);
  }
  __device__ __forceinline__ bool absent() const { return absent_; }

 private:
  using Element = typename Math::Element;

  // What value() makes 1 of.
  __device__ __forceinline__ uint32_t one() const {
    if constexpr (sizeof(Element) == 2) {
      if (narrow_) return Math::pack(1.f, 1.f);
    }
    return __float_as_uint(1.f);
  }

  const bool narrow_, absent_;
  const uint8_t* at_;
  int64_t step_;  // bytes to the next channel
};

}  // namespace dcn
