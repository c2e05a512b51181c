// The gather for offset groups narrower than a slice on compute capability 9.0: each vector of a
// lane may lie in an offset group of its own, so a lane plans its own samples, in registers, from
// offsets that were loaded a step earlier.
//
// Each lane of a load would touch a line of its own, and the L1 looks up four in a clock. So a CTA
// copies a window of the image into shared memory, once a slice: what lies around its tile's
// pixels, with zeros outside the image. A warp whose samples all lie in the window reads them
// there; any other takes the way through the L1.
#pragma once

#include <cstddef>

#include "fused_gather.cuh"

namespace dcn {

// Of a CTA. What only some steps or few lanes need lies here as well, to spare registers.
struct SliceWindow {
  float top, bottom, left, right;  // corners 0 of samples that lie in it
  int32_t origin, columns;         // the pixel of the image where it begins, in rows of `columns`
  int32_t y, x, rows;
  OutputPixel first, last;  // of the tile
  alignas(kVectorBytes) uint8_t pixel[1][kSliceBytes];
};
static_assert(offsetof(SliceWindow, pixel) == kWindowHeader);

template <class Math, int kWindowPixels>
class WindowGather {
 public:
  // `plans`: what the warps exchange lies there, and behind it the window.
  __device__ __forceinline__ WindowGather(const FpropParams& params, uint8_t* plans, int32_t group,
                                          int thread)
      : params_(params),
        lane_(thread % 32),
        group_(group),
        window_(*reinterpret_cast<SliceWindow*>(plans + blockDim.x / 32 * kExchangeBytes)) {}

  // All steps: nothing is planned for a chunk.
  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep) {
    return params.layout.steps;
  }

  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const ConvShape& shape = params_.shape;
    const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);  // of the warp
    const int64_t image_elements = int64_t{shape.H} * shape.W * params_.layout.channels;
    image_ =
        static_cast<const uint8_t*>(params_.input) +
        (first_image * image_elements + group_ * params_.layout.group_channels) * kElementBytes;
    slice_ = map_slice_ = at.slice * kSliceBytes;
    kernel_row_ = params_.kernel_width.quotient(at.tap);
    kernel_column_ = at.tap - kernel_row_ * shape.S;
    map_tap_ = at.tap;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int from = lane_ / 4 + 8 * r;
      const OutputPixel pixel{__shfl_sync(~0u, row.at.n, from), __shfl_sync(~0u, row.at.p, from),
                              __shfl_sync(~0u, row.at.q, from)};
      image_base_[r] =
          static_cast<uint32_t>((pixel.n - first_image) * image_elements) * kElementBytes;
      y_[r] = shape.origin_y(pixel.p, kernel_row_);
      x_[r] = shape.origin_x(pixel.q, kernel_column_);
      offset_[r] = at_pixel(params_.offset, pixel);
      mask_[r] = at_pixel(params_.mask, pixel);
      modulation_[r][0] = modulation_[r][1] = __float_as_uint(1.f);
    }
    locate_maps();
    load_maps();
    advance_maps();
    place_window(row.at);
    fill_window();
  }

  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more) {
    const bool short_offset = is_short(params_.offset), short_mask = is_short(params_.mask);
    Point point[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2;
      point[i] = {y_[r] + wide(short_offset, dy_[r][i % 2]),
                  x_[r] + wide(short_offset, dx_[r][i % 2]),
                  wide(short_mask, modulation_[r][i % 2])};
    }
    if (lie_in_window(point)) {
      read_window<0>(point, value);
      load_maps();
      read_window<2>(point, value);
    } else {
      load_maps();
      read_image(point, value);
    }
    advance_maps();
    advance(more);
  }

 private:
  struct Point {
    float y, x, mask;
  };
  static constexpr int kElementBytes = sizeof(typename Math::Element);

  // Around the cells of the tile (PixelWalk) that lie in the strip and the image of its first
  // pixel; not all of them, where shared memory has not the room.
  __device__ __forceinline__ void place_window(OutputPixel own) {
    const ConvShape& shape = params_.shape;
    const int32_t cell_height = params_.walk.cell_height;
    if (threadIdx.x == 0) window_.first = own;
    if (threadIdx.x == blockDim.x - 1) window_.last = own;
    __syncthreads();
    const OutputPixel first = window_.first, last = window_.last;
    const int32_t strip = first.p / cell_height;
    const bool ends_there = last.n == first.n && last.p / cell_height == strip;
    const int32_t p = strip * cell_height, q = first.q / kWarpPixels * kWarpPixels;
    const int32_t last_p = min(p + cell_height, shape.P) - 1;
    const int32_t last_q = ends_there ? min(last.q | (kWarpPixels - 1), shape.Q - 1) : shape.Q - 1;
    own_image_ = __all_sync(~0u, own.n == first.n);
    if (threadIdx.x != 0) return;
    window_.y = shape.origin_y(p, 0) - kWindowMargin;
    window_.x = shape.origin_x(q, 0) - kWindowMargin;
    window_.rows =
        min(shape.origin_y(last_p, shape.R - 1) + kWindowMargin + 2 - window_.y, kWindowPixels / 2);
    window_.columns = min(shape.origin_x(last_q, shape.S - 1) + kWindowMargin + 2 - window_.x,
                          kWindowPixels / window_.rows);
    window_.origin = window_.y * window_.columns + window_.x;
    window_.top = window_.y;
    window_.bottom = window_.y + window_.rows - 1;
    window_.left = window_.x;
    window_.right = window_.x + window_.columns - 1;
  }

  // A warp copies whole rows, four pixels at a time.
  __device__ __forceinline__ void fill_window() {
    const ConvShape& shape = params_.shape;
    __syncthreads();  // no warp reads the slice before
    const int64_t pixel_bytes = params_.layout.channels * kElementBytes;
    const int32_t byte = lane_ % kSliceVectors * kVectorBytes;
    const bool there = byte < group_bytes() - slice_;
    const int32_t rows = window_.rows, columns = window_.columns, left = window_.x;
    const uint8_t* const image =
        static_cast<const uint8_t*>(params_.input) +
        (window_.first.n * int64_t{shape.H} * shape.W + left) * pixel_bytes +
        group_ * params_.layout.group_channels * kElementBytes + slice_ + byte;
    const uint32_t to = ptx::shared_address(window_.pixel[0]) + byte;
    for (int32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
      const int32_t y = window_.y + row;
      const bool row_there = there && y >= 0 && y < shape.H;
      const uint8_t* const from = image + int64_t{y} * shape.W * pixel_bytes;
#pragma unroll 4
      for (int32_t i = lane_ / kSliceVectors; i < columns; i += 32 / kSliceVectors) {
        const bool copies = row_there && left + i >= 0 && left + i < shape.W;
        ptx::copy_vector_or_zeros(to + (row * columns + i) * kSliceBytes,
                                  copies ? from + i * pixel_bytes : params_.input, copies);
      }
    }
    ptx::wait_for_copies();
    __syncthreads();
  }

  __device__ __forceinline__ int32_t group_bytes() const {
    return params_.layout.group_channels * kElementBytes;
  }

  __device__ __forceinline__ void advance(bool more) {
    const ConvShape& shape = params_.shape;
    x_[0] += shape.dil_w;
    x_[1] += shape.dil_w;
    if (++kernel_column_ < shape.S) return;
    kernel_column_ = 0;
    const bool last = ++kernel_row_ == shape.R;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      x_[r] -= shape.S * shape.dil_w;
      y_[r] += (last ? 1 - shape.R : 1) * shape.dil_h;
    }
    if (!last) return;
    kernel_row_ = 0;
    slice_ += kSliceBytes;
    if (more) fill_window();
  }

  // The step whose offsets are loaded next; it stays at the last one.
  __device__ __forceinline__ void advance_maps() {
    if (++map_tap_ < params_.shape.taps()) return;
    if (map_slice_ + kSliceBytes >= group_bytes()) {
      --map_tap_;
      return;
    }
    map_tap_ = 0;
    map_slice_ += kSliceBytes;
    locate_maps();
  }

  // The first map of the offset group of each vector of that step.
  __device__ __forceinline__ void locate_maps() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t byte = map_slice_ + LaneVectors::byte(lane_, i);
      const int32_t channel = group_ * params_.layout.group_channels +
                              (byte < group_bytes() ? byte : map_slice_) / kElementBytes;
      map_[i] = params_.offset_group.quotient(channel) * params_.shape.taps();
    }
  }

  // (Without a mask `modulation_` stays 1 in f32.)
  static __device__ __forceinline__ bool is_short(const SamplingMap& map) {
    return kElementBytes == 2 && map.data != nullptr && map.dtype != Dtype::kF32;
  }
  static __device__ __forceinline__ const uint8_t* at_pixel(const SamplingMap& map,
                                                            OutputPixel pixel) {
    return static_cast<const uint8_t*>(map.data) +
           map_index(map, pixel, 0) * (is_short(map) ? 2 : 4);
  }
  static __device__ __forceinline__ float wide(bool is_short, uint32_t loaded) {
    if constexpr (kElementBytes == 2) {
      if (is_short) return Math::wide(loaded);
    }
    return __uint_as_float(loaded);
  }

  // Offsets and masks of the next step.
  __device__ __forceinline__ void load_maps() {
    const bool short_offset = is_short(params_.offset), short_mask = is_short(params_.mask);
    const bool masked = params_.mask.data != nullptr;
    const int32_t step = params_.offset.stride_c * (short_offset ? 2 : 4);
    const int32_t mask_step = params_.mask.stride_c * (short_mask ? 2 : 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2;
      const int32_t map = map_[i % 2] + map_tap_;
      const uint8_t* const dy = ptx::step_ahead(offset_[r], 2 * map, step);
      ptx::load_map(true, short_offset, dy, dy_[r][i % 2]);
      ptx::load_map(true, short_offset, dy + step, dx_[r][i % 2]);
      ptx::load_map(masked, short_mask, ptx::step_ahead(mask_[r], map, mask_step),
                    modulation_[r][i % 2]);
    }
  }

  // All points of the warp.
  __device__ __forceinline__ bool lie_in_window(const Point (&point)[4]) const {
    bool inside = own_image_;
#pragma unroll
    for (const Point& p : point) {
      inside &=
          in_window(p.y, p.x, p.mask, window_.top, window_.bottom, window_.left, window_.right);
    }
    return __all_sync(~0u, inside);
  }

  // Two points from `kFirst` on.
  template <int kFirst>
  __device__ __forceinline__ void read_window(const Point (&point)[4],
                                              uint32_t (&value)[4][4]) const {
    const int32_t columns = window_.columns, origin = window_.origin;
#pragma unroll
    for (int i = kFirst; i < kFirst + 2; ++i) {
      const WindowSample sample = make_window_sample(point[i].y, point[i].x, point[i].mask);
      const int32_t pixel = sample.y0 * columns + sample.x0 - origin;
      const uint8_t* const above =
          window_.pixel[0] + pixel * kSliceBytes + LaneVectors::byte(lane_, i % 2);
      const uint8_t* const below = above + columns * kSliceBytes;
      uint4 corner[4];
      corner[0] = *reinterpret_cast<const uint4*>(above);
      corner[1] = *reinterpret_cast<const uint4*>(above + kSliceBytes);
      corner[2] = *reinterpret_cast<const uint4*>(below);
      corner[3] = *reinterpret_cast<const uint4*>(below + kSliceBytes);
      const float* w = sample.weight;
      Math::mix(corner, Math::weights({w[0], w[1], w[2], w[3]}), value[i]);
    }
  }

  // Missing vectors, and samples outside the image, are worth 0.
  __device__ __forceinline__ void read_image(const Point (&point)[4],
                                             uint32_t (&value)[4][4]) const {
    const ConvShape& shape = params_.shape;
    const uint32_t pixel_bytes = params_.layout.channels * kElementBytes;
    const uint32_t row_bytes = shape.W * pixel_bytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const FusedSample sample = fused_sample(point[i].y, point[i].x, point[i].mask, shape.H,
                                              shape.W, row_bytes, pixel_bytes, image_base_[i / 2]);
      const int32_t byte = slice_ + LaneVectors::byte(lane_, i % 2);
      const bool there = byte < group_bytes();
      uint4 corner[4];
      load_corners(image_ + (there ? byte : slice_), sample.corner, corner);
      Math::mix(corner, Math::weights(sample.weight), value[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) value[i][k] = sample.outside || !there ? 0 : value[i][k];
    }
  }
  const FpropParams& params_;
  const int lane_;
  const int32_t group_;
  SliceWindow& window_;
  bool own_image_;                              // the warp's rows are all of the window's image
  const uint8_t* image_;                        // of the warp's first row; channel 0 of the group
  uint32_t image_base_[2];                      // of this lane's rows: bytes from `image_`
  float y_[2], x_[2];                           // of the tap without its offset
  const uint8_t *offset_[2], *mask_[2];         // channel 0 of the maps
  int32_t kernel_row_, kernel_column_, slice_;  // slice: bytes from the group
  int32_t map_tap_, map_slice_, map_[2];        // of the step whose offsets are loaded next
  uint32_t dy_[2][2], dx_[2][2], modulation_[2][2];  // of the next step: [row][vector]
};

}  // namespace dcn
