// What im2col and col2im share: the tile of planned samples in shared memory, and vectors of
// channels.
//
// A block serves kTilePixels output pixels times tile_units units, a unit being one (tap, offset
// group). Its threads first plan each (pixel, unit) once: position, corners, fractions, mask. Then
// groups of lanes walk the planned samples, each group along the channels of one sample, so that
// loads of a corner and stores of a column are contiguous.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>
#include <string>

#include "../../bilinear.h"
#include "params.h"

namespace dcn {

constexpr int kThreads = 256;

template <typename Element>
struct CoordOf {
  using type = float;
};
template <>
struct CoordOf<double> {
  using type = double;
};

__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ void narrow(double from, double& to) { to = from; }
__device__ __forceinline__ void narrow(double from, float& to) { to = static_cast<float>(from); }
__device__ __forceinline__ void narrow(float from, float& to) { to = from; }
__device__ __forceinline__ void narrow(float from, __half& to) { to = __float2half_rn(from); }
__device__ __forceinline__ void narrow(float from, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(from);
}

template <typename Element, int kVec>
struct alignas(sizeof(Element) * kVec) Vector {
  using element = Element;
  static constexpr int kWidth = kVec;
  Element lane[kVec];
};

template <typename Coord>
__device__ __forceinline__ Coord load_as(const void* data, Dtype dtype, int64_t index) {
  switch (dtype) {
    case Dtype::kF64:
      return static_cast<Coord>(static_cast<const double*>(data)[index]);
    case Dtype::kF32:
      return static_cast<Coord>(static_cast<const float*>(data)[index]);
    case Dtype::kF16:
      return static_cast<Coord>(widen(static_cast<const __half*>(data)[index]));
    case Dtype::kBF16:
      return static_cast<Coord>(widen(static_cast<const __nv_bfloat16*>(data)[index]));
  }
  __trap();
  return Coord(0);  // not reached; the host compiler wants a value
}

template <typename Coord>
__device__ __forceinline__ void store_as(void* data, Dtype dtype, int64_t index, Coord value) {
  switch (dtype) {
    case Dtype::kF64:
      static_cast<double*>(data)[index] = value;
      return;
    case Dtype::kF32:
      static_cast<float*>(data)[index] = value;
      return;
    case Dtype::kF16:
      narrow(static_cast<float>(value), static_cast<__half*>(data)[index]);
      return;
    case Dtype::kBF16:
      narrow(static_cast<float>(value), static_cast<__nv_bfloat16*>(data)[index]);
      return;
  }
  __trap();
}

// All that the lanes of one sample need, computed once. 48 bytes for f32, 80 for f64: odd multiples
// of 16, so that lanes which read consecutive samples meet no bank conflict.
template <typename Coord>
struct alignas(16) PlannedSample {
  Coord weight[4];  // of the corners, the mask included
  int64_t from;     // element of the input: corner 0, first channel of the offset group
  int64_t to;  // element of the columns: that channel of this tap; with several convolution groups,
               // of the pixel
  Coord base;  // value before the corners are added
  Coord ly, lx;  // fractions, NaN where a coordinate is
  uint32_t corners;

  __device__ __forceinline__ bool has(int k) const { return (corners >> k) & 1u; }
};

// One chunk pixel: its image and its place in the output.
struct OutputPixel {
  int32_t n, p, q;
};
__device__ __forceinline__ OutputPixel output_pixel(const ColumnParams& chunk, int32_t pixel) {
  const uint32_t flat = static_cast<uint32_t>(chunk.first_pixel) + static_cast<uint32_t>(pixel);
  const uint32_t per_image = chunk.shape.output_pixels_per_image();
  const uint32_t image = flat / per_image;
  const uint32_t inside = flat - image * per_image;
  const uint32_t p = inside / chunk.shape.Q;
  return {chunk.first_image + static_cast<int32_t>(image), static_cast<int32_t>(p),
          static_cast<int32_t>(inside - p * chunk.shape.Q)};
}

__device__ __forceinline__ int64_t map_index(const SamplingMap& map, OutputPixel at,
                                             int32_t channel) {
  return at.n * map.stride_n + (int64_t{channel} * map.stride_c + int64_t{at.p} * map.stride_h +
                                int64_t{at.q} * map.stride_w);
}

template <typename Coord>
__device__ __forceinline__ Coord load_mask(const ColumnParams& chunk, OutputPixel at, int32_t map) {
  if (chunk.mask.data == nullptr) return Coord(1);
  return load_as<Coord>(chunk.mask.data, chunk.mask.dtype, map_index(chunk.mask, at, map));
}

// A (tap, offset group) pair.
struct Unit {
  int32_t tap, d;
};
__device__ __forceinline__ Unit unit_at(const ConvShape& shape, int32_t unit) {
  const int32_t tap = unit / shape.D;
  return {tap, unit - tap * shape.D};
}

// The tile of this block: which pixels of the chunk and which units.
struct Tile {
  int32_t first_pixel, pixels;
  int32_t first_unit, units;
  __device__ __forceinline__ int32_t samples() const { return pixels * units; }
};
__device__ __forceinline__ Tile this_tile(const ColumnParams& chunk) {
  const int32_t first_pixel = blockIdx.x * kTilePixels;
  const int32_t first_unit = blockIdx.y * chunk.tile_units;
  const int32_t all_units = chunk.shape.taps() * chunk.shape.D;
  return {first_pixel, min(kTilePixels, chunk.pixels - first_pixel), first_unit,
          min(chunk.tile_units, all_units - first_unit)};
}

// Plans every sample of the tile into `planned[pixel * units + unit]`, and returns when all threads
// may read it.
template <typename Coord>
__device__ __forceinline__ void plan_tile(const ColumnParams& chunk, const Tile& tile,
                                          PlannedSample<Coord>* planned) {
  const ConvShape& shape = chunk.shape;
  for (int32_t i = threadIdx.x; i < kTilePixels * tile.units; i += kThreads) {
    const int32_t pixel = i % kTilePixels, unit = i / kTilePixels;
    if (pixel >= tile.pixels) continue;
    const Unit u = unit_at(shape, tile.first_unit + unit);
    const int32_t r = u.tap / shape.S, s = u.tap - r * shape.S;
    const OutputPixel at = output_pixel(chunk, tile.first_pixel + pixel);
    const int32_t map = u.d * shape.taps() + u.tap;
    const Coord dy =
        load_as<Coord>(chunk.offset.data, chunk.offset.dtype, map_index(chunk.offset, at, 2 * map));
    const Coord dx = load_as<Coord>(chunk.offset.data, chunk.offset.dtype,
                                    map_index(chunk.offset, at, 2 * map + 1));
    const Coord mask = load_mask<Coord>(chunk, at, map);
    const Sample<Coord> sample = make_sample<Coord>(
        Coord(shape.origin_y(at.p, r)) + dy, Coord(shape.origin_x(at.q, s)) + dx, shape.H, shape.W);
    const int32_t channel = u.d * shape.channels_per_offset_group();
    PlannedSample<Coord>& out = planned[pixel * tile.units + unit];
#pragma unroll
    for (int k = 0; k < 4; ++k) out.weight[k] = sample.weight(k) * mask;
    out.from = int64_t{at.n} * shape.H * shape.W * shape.C +
               (sample.y0 * shape.W + sample.x0) * shape.C + channel;
    out.to = int64_t{tile.first_pixel + pixel} * shape.column_length();
    if (shape.G == 1) out.to += u.tap * shape.C + channel;
    out.base = sample.modulated_fill(mask);
    out.ly = sample.ly;
    out.lx = sample.lx;
    out.corners = sample.corners;
  }
  __syncthreads();
}

// Element of the columns where channel c of the offset group of a planned sample lies.
template <typename Coord>
__device__ __forceinline__ int64_t column_element(const ConvShape& shape, const Tile& tile,
                                                  const PlannedSample<Coord>& at, int32_t i,
                                                  int32_t c) {
  if (shape.G == 1) return at.to + c;
  const Unit u = unit_at(shape, tile.first_unit + i % tile.units);
  const int32_t channel = u.d * shape.channels_per_offset_group() + c;
  const int32_t per_group = shape.channels_per_group();
  const int32_t group = channel / per_group;
  return at.to + (group * shape.taps() + u.tap) * per_group + (channel - group * per_group);
}

// The four corners of a sample at one vector of channels; those outside the image are zero and not
// read.
template <typename Element, int kVec, typename Coord>
__device__ __forceinline__ void load_corners(const Element* corner0, const ConvShape& shape,
                                             const PlannedSample<Coord>& at,
                                             Vector<Element, kVec> (&corner)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    corner[k] = Vector<Element, kVec>{};
    if (at.has(k)) {
      corner[k] = *reinterpret_cast<const Vector<Element, kVec>*>(
          corner0 + Sample<Coord>::corner_step(k, shape.W) * shape.C);
    }
  }
}

// Lanes that share one sample: a power of two, so that a warp holds whole groups.
inline int lanes_per_sample(int32_t vectors) {
  int lanes = 1;
  while (lanes < 32 && lanes < vectors) lanes *= 2;
  return lanes;
}

inline dim3 tile_grid(const ColumnParams& chunk) {
  const int units = chunk.shape.taps() * chunk.shape.D;
  return dim3((chunk.pixels + kTilePixels - 1) / kTilePixels,
              (units + chunk.tile_units - 1) / chunk.tile_units);
}

template <typename Coord>
inline size_t tile_bytes(const ColumnParams& chunk) {
  return sizeof(PlannedSample<Coord>) * kTilePixels * chunk.tile_units;
}

// Calls `launch` with an Element and a vector width, as types, for the chunk's dtype and vector
// bytes.
template <typename Element, typename Launch>
void with_vector(int32_t vector_bytes, Launch&& launch) {
  switch (vector_bytes / static_cast<int32_t>(sizeof(Element))) {
    case 8:
      if constexpr (sizeof(Element) == 2) return launch(Vector<Element, 8>{});
      break;
    case 4:
      if constexpr (sizeof(Element) <= 4) return launch(Vector<Element, 4>{});
      break;
    case 2:
      return launch(Vector<Element, 2>{});
    case 1:
      return launch(Vector<Element, 1>{});
  }
  throw std::logic_error("no vector of " + std::to_string(vector_bytes) + " bytes");
}

template <typename Launch>
void with_element_and_vector(const ColumnParams& chunk, Launch&& launch) {
  switch (chunk.dtype) {
    case Dtype::kF64:
      return with_vector<double>(chunk.vector_bytes, launch);
    case Dtype::kF32:
      return with_vector<float>(chunk.vector_bytes, launch);
    case Dtype::kF16:
      return with_vector<__half>(chunk.vector_bytes, launch);
    case Dtype::kBF16:
      return with_vector<__nv_bfloat16>(chunk.vector_bytes, launch);
  }
  throw std::logic_error("no kernel for this dtype");
}

}  // namespace dcn
