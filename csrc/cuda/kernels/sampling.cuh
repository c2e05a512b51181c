// What im2col and col2im share: the tile of planned samples in shared memory, and vectors of channels.
//
// A block serves kTilePixels output pixels times up to kTileUnits units, a unit being one (tap, offset group). Its threads
// first plan each (pixel, unit) once: position, corners, fractions, mask. Then groups of lanes walk the planned samples, each
// group along the channels of one sample, so that loads of a corner and stores of a column are contiguous.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>
#include <string>

#include "../../bilinear.h"
#include "params.h"

namespace dcn {

constexpr int kThreads = 256;
constexpr int kTilePixels = 32;  // one warp plans one unit with coalesced reads of the offset maps
constexpr int kTileUnits = 16;   // at most; 3x3 with one offset group has 9

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
__device__ __forceinline__ void narrow(float from, float& to) { to = from; }
__device__ __forceinline__ void narrow(float from, __half& to) { to = __float2half_rn(from); }
__device__ __forceinline__ void narrow(float from, __nv_bfloat16& to) { to = __float2bfloat16_rn(from); }

template <typename Element, int kVec>
struct alignas(sizeof(Element) * kVec) Vector {
  using element = Element;
  static constexpr int kWidth = kVec;
  Element lane[kVec];
};

template <typename Coord>
__device__ __forceinline__ Coord load_as(const void* data, Dtype dtype, int64_t index) {
  switch (dtype) {
    case Dtype::kF64: return static_cast<Coord>(static_cast<const double*>(data)[index]);
    case Dtype::kF32: return static_cast<Coord>(static_cast<const float*>(data)[index]);
    case Dtype::kF16: return static_cast<Coord>(widen(static_cast<const __half*>(data)[index]));
    case Dtype::kBF16:
      return static_cast<Coord>(widen(static_cast<const __nv_bfloat16*>(data)[index]));
  }
  __trap();
  return Coord(0);  // not reached; the host compiler wants a value
}

template <typename Coord>
__device__ __forceinline__ void store_as(void* data, Dtype dtype, int64_t index, Coord value) {
  switch (dtype) {
    case Dtype::kF64: static_cast<double*>(data)[index] = value; return;
    case Dtype::kF32: static_cast<float*>(data)[index] = value; return;
    case Dtype::kF16: narrow(static_cast<float>(value), static_cast<__half*>(data)[index]); return;
    case Dtype::kBF16:
      narrow(static_cast<float>(value), static_cast<__nv_bfloat16*>(data)[index]);
      return;
  }
  __trap();
}

template <typename Coord>
struct PlannedSample {
  int64_t image;  // element index of the image's first value
  Sample<Coord> sample;
  Coord mask;
  int32_t pixel;    // in the chunk
  int32_t tap;
  int32_t channel;  // first of the offset group
};

// Where in the columns of one pixel channel c of a tap lies: [G, R*S, C/G].
__device__ __forceinline__ int32_t column_index(const ConvShape& shape, int32_t tap, int32_t c) {
  if (shape.G == 1) return tap * shape.C + c;
  const int32_t per_group = shape.channels_per_group();
  const int32_t group = c / per_group;
  return (group * shape.taps() + tap) * per_group + (c - group * per_group);
}

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

__device__ __forceinline__ int64_t map_index(const SamplingMap& map, OutputPixel at, int32_t channel) {
  return at.n * map.stride_n +
         (int64_t{channel} * map.stride_c + int64_t{at.p} * map.stride_h + int64_t{at.q} * map.stride_w);
}

// The tile of this block: which pixels of the chunk and which units.
struct Tile {
  int32_t first_pixel, pixels;
  int32_t first_unit, units;
  __device__ __forceinline__ int32_t samples() const { return pixels * units; }
};
__device__ __forceinline__ Tile this_tile(const ColumnParams& chunk) {
  const int32_t first_pixel = blockIdx.x * kTilePixels;
  const int32_t first_unit = blockIdx.y * kTileUnits;
  const int32_t all_units = chunk.shape.taps() * chunk.shape.D;
  return {first_pixel, min(kTilePixels, chunk.pixels - first_pixel), first_unit,
          min(kTileUnits, all_units - first_unit)};
}

// Plans every sample of the tile into `planned[pixel * units + unit]`, and returns when all threads may read it.
template <typename Coord>
__device__ __forceinline__ void plan_tile(const ColumnParams& chunk, const Tile& tile,
                                          PlannedSample<Coord>* planned) {
  const ConvShape& shape = chunk.shape;
  for (int32_t i = threadIdx.x; i < kTilePixels * tile.units; i += kThreads) {
    const int32_t pixel = i % kTilePixels, unit = i / kTilePixels;
    if (pixel >= tile.pixels) continue;
    const int32_t tap = (tile.first_unit + unit) / shape.D;
    const int32_t d = (tile.first_unit + unit) - tap * shape.D;
    const int32_t r = tap / shape.S, s = tap - r * shape.S;
    const OutputPixel at = output_pixel(chunk, tile.first_pixel + pixel);
    const int32_t map = d * shape.taps() + tap;
    const Coord dy = load_as<Coord>(chunk.offset.data, chunk.offset.dtype,
                                    map_index(chunk.offset, at, 2 * map));
    const Coord dx = load_as<Coord>(chunk.offset.data, chunk.offset.dtype,
                                    map_index(chunk.offset, at, 2 * map + 1));
    PlannedSample<Coord>& out = planned[pixel * tile.units + unit];
    out.sample = make_sample<Coord>(Coord(shape.origin_y(at.p, r)) + dy,
                                    Coord(shape.origin_x(at.q, s)) + dx, shape.H, shape.W);
    out.mask = chunk.mask.data == nullptr
                   ? Coord(1)
                   : load_as<Coord>(chunk.mask.data, chunk.mask.dtype, map_index(chunk.mask, at, map));
    out.image = int64_t{at.n} * shape.H * shape.W * shape.C;
    out.pixel = tile.first_pixel + pixel;
    out.tap = tap;
    out.channel = d * shape.channels_per_offset_group();
  }
  __syncthreads();
}

// The four corners of a sample at one vector of channels; those outside the image are zero and not read.
template <typename Element, int kVec, typename Coord>
__device__ __forceinline__ void load_corners(const Element* input, const ConvShape& shape,
                                             const PlannedSample<Coord>& planned, int32_t channel,
                                             Vector<Element, kVec> (&corner)[4]) {
  const Sample<Coord>& sample = planned.sample;
  const int32_t origin = (sample.y0 * shape.W + sample.x0) * shape.C + planned.channel + channel;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    corner[k] = Vector<Element, kVec>{};
    if (sample.has(k)) {
      const int64_t index = planned.image + origin + Sample<Coord>::corner_step(k, shape.W) * shape.C;
      corner[k] = *reinterpret_cast<const Vector<Element, kVec>*>(input + index);
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
  return dim3((chunk.pixels + kTilePixels - 1) / kTilePixels, (units + kTileUnits - 1) / kTileUnits);
}

template <typename Coord>
inline size_t tile_bytes(const ColumnParams& chunk) {
  const int units = chunk.shape.taps() * chunk.shape.D;
  return sizeof(PlannedSample<Coord>) * kTilePixels * (units < kTileUnits ? units : kTileUnits);
}

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(kernel) + " did not launch: " + cudaGetErrorString(error));
}

// Calls `launch` with an Element and a vector width, as types, for the chunk's dtype and vector bytes.
template <typename Element, typename Launch>
void with_vector(int32_t vector_bytes, Launch&& launch) {
  switch (vector_bytes / static_cast<int32_t>(sizeof(Element))) {
    case 8: if constexpr (sizeof(Element) == 2) return launch(Vector<Element, 8>{}); break;
    case 4: if constexpr (sizeof(Element) <= 4) return launch(Vector<Element, 4>{}); break;
    case 2: return launch(Vector<Element, 2>{});
    case 1: return launch(Vector<Element, 1>{});
  }
  throw std::logic_error("no vector of " + std::to_string(vector_bytes) + " bytes");
}

template <typename Launch>
void with_element_and_vector(const ColumnParams& chunk, Launch&& launch) {
  switch (chunk.dtype) {
    case Dtype::kF64: return with_vector<double>(chunk.vector_bytes, launch);
    case Dtype::kF32: return with_vector<float>(chunk.vector_bytes, launch);
    case Dtype::kF16: return with_vector<__half>(chunk.vector_bytes, launch);
    case Dtype::kBF16: return with_vector<__nv_bfloat16>(chunk.vector_bytes, launch);
  }
  throw std::logic_error("no kernel for this dtype");
}

}  // namespace dcn
