// The offsets and the masks of a tile's samples at one output pixel, and the gradients of these.
#pragma once

#include "../fused/fused_samples.cuh"
#include "scatter_shared.cuh"

namespace dcn {

// Of a sample, as they come.
struct LoadedMaps {
  uint32_t dy, dx, mask;
};

// Of an element, in bytes.
__device__ __forceinline__ int32_t map_size(const SamplingMap& map) {
  return map.dtype == Dtype::kF32 ? 4 : 2;
}

// Where the maps of a tap are at an output pixel, those of the gradients too.
struct MapPlaces {
  const uint8_t *offset, *mask;
  uint8_t *grad_offset, *grad_mask;

  // Sizes: of an element, in bytes.
  static __device__ __forceinline__ MapPlaces of(const ScatterParams& params, OutputPixel at,
                                                 int32_t map, int32_t offset_size,
                                                 int32_t mask_size) {
    const ConvShape& shape = params.shape;
    const int32_t plane = shape.output_pixels_per_image();
    const int64_t first = int64_t{at.n} * shape.D * shape.taps() + map;
    const int32_t pixel = at.p * shape.Q + at.q;
    return {
        static_cast<const uint8_t*>(params.offset.data) +
            map_index(params.offset, at, 2 * map) * offset_size,
        static_cast<const uint8_t*>(params.mask.data) + map_index(params.mask, at, map) * mask_size,
        static_cast<uint8_t*>(params.grad_offset) + (2 * first * plane + pixel) * offset_size,
        static_cast<uint8_t*>(params.grad_mask) + (first * plane + pixel) * mask_size};
  }
  // So many rows, columns and taps further on, few. Sizes: as of `of`.
  __device__ __forceinline__ MapPlaces moved(const ScatterParams& params, int32_t rows,
                                             int32_t columns, int32_t taps, int32_t offset_size,
                                             int32_t mask_size) const {
    const ConvShape& shape = params.shape;
    const auto step = [&](const SamplingMap& map, int32_t maps, int32_t size) {
      return (int64_t{maps} * map.stride_c + int64_t{rows} * map.stride_h +
              int64_t{columns} * map.stride_w) *
             size;
    };
    const int32_t pixel = rows * shape.Q + columns;
    const int64_t plane = int64_t{taps} * shape.output_pixels_per_image();
    return {offset + step(params.offset, 2 * taps, offset_size),
            mask + step(params.mask, taps, mask_size),
            grad_offset + (2 * plane + pixel) * offset_size,
            grad_mask + (plane + pixel) * mask_size};
  }
};

// With the places of the maps of its first pixel and tap.
struct UsualTile : ScatterTile {
  MapPlaces maps;

  __device__ __forceinline__ void find(const ScatterParams& params, int32_t item) {
    ScatterTile::find(params, item);
    maps = MapPlaces::of(params, {n, p, q}, offset_group * params.shape.taps(),
                         map_size(params.offset), map_size(params.mask));
  }
};

// Walks from tap to tap. Maps, and their gradients, are of f32 or of the image's 16 bits; kWide: of
// f32, as is known before.
template <class Math, bool kWide>
class ScatterMaps {
 public:
  using Element = typename Math::Element;

  // Of a tap of an offset group; `step`: taps from one to the next.
  __device__ __forceinline__ ScatterMaps(const ScatterParams& params, OutputPixel at, int32_t map,
                                         int32_t step)
      : ScatterMaps(params,
                    MapPlaces::of(params, at, map, size(is_narrow(params.offset)),
                                  size(is_narrow(params.mask))),
                    step) {}
  __device__ __forceinline__ ScatterMaps(const ScatterParams& params, const MapPlaces& places,
                                         int32_t step)
      : narrow_offset_(is_narrow(params.offset)),
        narrow_mask_(is_narrow(params.mask)),
        has_mask_(ptx::unkept(static_cast<int>(params.mask.data != nullptr)) != 0),
        offset_plane_(int64_t{params.offset.stride_c} * size(narrow_offset_)),
        grad_plane_(int64_t{params.shape.output_pixels_per_image()} * size(narrow_offset_)),
        offset_step_(2 * step * offset_plane_),
        mask_step_(int64_t{params.mask.stride_c} * (step * size(narrow_mask_))),
        grad_offset_step_(2 * step * grad_plane_),
        grad_mask_step_(int64_t{params.shape.output_pixels_per_image()} *
                        (step * size(narrow_mask_))),
        offset_(places.offset),
        mask_(places.mask),
        grad_offset_(places.grad_offset),
        grad_mask_(places.grad_mask) {}

  // Loads and goes to the next tap. Loading and reading are apart, so that loads are on their way
  // early.
  __device__ __forceinline__ LoadedMaps next() {
    LoadedMaps loaded{load(offset_, narrow_offset_), load(offset_ + offset_plane_, narrow_offset_),
                      0};
    if (has_mask_) loaded.mask = load(mask_, narrow_mask_);
    offset_ += offset_step_;
    mask_ += mask_step_;
    return loaded;
  }
  __device__ __forceinline__ float dy(const LoadedMaps& loaded) const {
    return value(loaded.dy, narrow_offset_);
  }
  __device__ __forceinline__ float dx(const LoadedMaps& loaded) const {
    return value(loaded.dx, narrow_offset_);
  }
  __device__ __forceinline__ float mask(const LoadedMaps& loaded) const {
    return has_mask_ ? value(loaded.mask, narrow_mask_) : 1.f;
  }

  // The gradients walk on their own.
  __device__ __forceinline__ void store_offset(float dy, float dx) const {
    store(grad_offset_, narrow_offset_, dy);
    store(grad_offset_ + grad_plane_, narrow_offset_, dx);
  }
  __device__ __forceinline__ void store_mask(float value) const {
    store(grad_mask_, narrow_mask_, value);
  }
  __device__ __forceinline__ void next_gradients() {
    grad_offset_ += grad_offset_step_;
    grad_mask_ += grad_mask_step_;
  }

 private:
  static __device__ __forceinline__ bool is_narrow(const SamplingMap& map) {
    return !kWide && sizeof(Element) == 2 && map.dtype != Dtype::kF32;
  }
  static __device__ __forceinline__ int32_t size(bool narrow) { return narrow ? 2 : 4; }
  static __device__ __forceinline__ uint32_t load(const uint8_t* from, bool narrow) {
    if (narrow) return __ldg(reinterpret_cast<const uint16_t*>(from));
    return __ldg(reinterpret_cast<const uint32_t*>(from));
  }
  static __device__ __forceinline__ float value(uint32_t loaded, bool narrow) {
    if constexpr (sizeof(Element) == 2) {
      if (narrow) return Math::wide(loaded);
    }
    return __uint_as_float(loaded);
  }
  static __device__ __forceinline__ void store(uint8_t* to, bool is_narrow, float value) {
    if constexpr (sizeof(Element) == 2) {
      if (is_narrow) return narrow(value, *reinterpret_cast<Element*>(to));
    }
    *reinterpret_cast<float*>(to) = value;
  }

  const bool narrow_offset_, narrow_mask_, has_mask_;
  // Bytes.
  const int64_t offset_plane_, grad_plane_;
  const int64_t offset_step_, mask_step_, grad_offset_step_, grad_mask_step_;
  const uint8_t *offset_, *mask_;
  uint8_t *grad_offset_, *grad_mask_;
};

}  // namespace dcn
