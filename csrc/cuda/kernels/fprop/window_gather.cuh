// The gather for offset groups narrower than a slice on compute capability 9.0: each vector of a
// lane may lie in an offset group of its own, so a lane plans its own samples, in registers, from
// offsets that were copied a step earlier (window_maps.cuh), while the step before is multiplied.
//
// Each lane of a load would touch a line of its own, and the L1 looks up four in a clock. So a CTA
// copies a window of the image into shared memory, once a slice: what lies around its tile's
// pixels, with zeros outside the image. A warp whose samples all lie in the window reads them
// there; any other takes the way through the L1. A tile is a cell of one image (WindowCells): a
// warp has 16 pixels of a row, or none, where a cell is lower than a tile could be.
#pragma once

#include <cstddef>

#include "window_maps.cuh"

namespace dcn {

// Of a CTA.
struct SliceWindow {
  int32_t y, x, rows, columns;  // from pixel (y, x) of the image
  OutputPixel first, last;      // of the tile
  alignas(kWindowHeader) uint8_t pixel[1][kSliceBytes];
};
static_assert(offsetof(SliceWindow, pixel) == kWindowHeader);

// Of a warp; it lies where the epilogue exchanges sums.
struct WindowPlan {
  uint4 limits;     // y, x, rows and columns of the corners 0 that the window serves
  int32_t columns;  // of the window
  int32_t image;
  MapPlan maps;
};
static_assert(sizeof(WindowPlan) <= kExchangeBytes);

template <class Math, int kWindowPixels>
class WindowGather {
 public:
  // `plans`: what the warps exchange lies there, and behind it the window.
  __device__ __forceinline__ WindowGather(const FpropParams& params, uint8_t* plans, int32_t group,
                                          int thread)
      : params_(params),
        lane_(thread % 32),
        group_(group),
        plan_(*reinterpret_cast<WindowPlan*>(plans + thread / 32 * kExchangeBytes)),
        window_(*reinterpret_cast<SliceWindow*>(plans + blockDim.x / 32 * kExchangeBytes)),
        maps_(params, plan_.maps, group, thread % 32) {}

  // All steps: nothing is planned for a chunk.
  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep) {
    return params.layout.steps;
  }

  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const ConvShape& shape = params_.shape;
    slice_ = at.slice * kSliceBytes;
    kernel_row_ = params_.kernel_width.quotient(at.tap);
    kernel_column_ = at.tap - kernel_row_ * shape.S;
    place_window(row.at);
    filled_ = false;
    exists_ = __any_sync(~0u, row.exists);
    if (!exists_) return;
    OutputPixel pixel[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int from = lane_ / 4 + 8 * r;
      pixel[r] = {row.at.n, row.at.p, __shfl_sync(~0u, row.at.q, from)};
    }
    y_ = shape.origin_y(row.at.p, kernel_row_);
    x_ = shape.origin_x(pixel[0].q, kernel_column_);
    maps_.begin(row.at, pixel, at);
  }

  // `wait`: for the multiplications of the step before, whose registers the values take.
  template <class Wait>
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more, Wait wait) {
    if (!filled_) fill_window();
    filled_ = true;
    Point point[2][2];
    const bool inside = exists_ && plan(point, more);
    wait();
    if (inside) {
      maps_.shared() ? mix_of_window<1>(point, value) : mix_of_window<2>(point, value);
    } else if (exists_) {
      mix_of_image(point, value);
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) value[i / 4][i % 4] = 0;
    }
    advance();
  }

 private:
  struct Point {
    float y, x, mask;
  };
  static constexpr int kElementBytes = sizeof(typename Math::Element);

  // Around the tile; not all of it, where shared memory has not the room.
  __device__ __forceinline__ void place_window(OutputPixel own) {
    const ConvShape& shape = params_.shape;
    if (threadIdx.x == 0) window_.first = own;
    if (threadIdx.x == blockDim.x - 1) window_.last = own;
    __syncthreads();
    const OutputPixel first = window_.first, last = window_.last;
    const int32_t y = shape.origin_y(first.p, 0) - kWindowMargin;
    const int32_t x = shape.origin_x(first.q, 0) - kWindowMargin;
    const int32_t rows =
        min(shape.origin_y(last.p, shape.R - 1) + kWindowMargin + 2 - y, kWindowPixels / 2);
    const int32_t columns =
        min(shape.origin_x(last.q, shape.S - 1) + kWindowMargin + 2 - x, kWindowPixels / rows);
    plan_.limits = make_uint4(y, x, rows - 1, columns - 1);
    plan_.columns = columns;
    plan_.image = first.n;
    if (threadIdx.x != 0) return;
    window_.y = y;
    window_.x = x;
    window_.rows = rows;
    window_.columns = columns;
  }

  // A warp copies whole rows, four pixels a copy.
  __device__ __forceinline__ void fill_window() {
    const ConvShape& shape = params_.shape;
    __syncthreads();  // no warp reads the slice before
    const int64_t pixel_bytes = params_.layout.channels * kElementBytes;
    const int lane = unkept(lane_);
    const int32_t byte = lane % kSliceVectors * kVectorBytes;
    const bool there = byte < group_bytes() - slice_;
    const int32_t rows = window_.rows, columns = window_.columns, left = window_.x;
    const uint8_t* const image = static_cast<const uint8_t*>(params_.input) +
                                 (plan_.image * int64_t{shape.H} * shape.W + left) * pixel_bytes +
                                 group_ * params_.layout.group_channels * kElementBytes + slice_ +
                                 byte;
    const uint32_t to = ptx::shared_address(window_.pixel[0]) + byte;
    for (int32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
      const int32_t y = window_.y + row;
      const bool row_there = there && y >= 0 && y < shape.H;
      const uint8_t* const from = image + int64_t{y} * shape.W * pixel_bytes;
#pragma unroll 4
      for (int32_t i = lane / kSliceVectors; i < columns; i += 32 / kSliceVectors) {
        const bool copies =
            row_there && static_cast<uint32_t>(left + i) < static_cast<uint32_t>(shape.W);
        ptx::copy_vector_or_zeros(to + (row * columns + i) * kSliceBytes, from + i * pixel_bytes,
                                  copies);
      }
    }
    ptx::wait_for_copies();
    __syncthreads();
  }

  // The samples of this step; whether the window has all that the warp needs.
  __device__ __forceinline__ bool plan(Point (&point)[2][2], bool more) {
    const float next_x = x_ + params_.shape.stride_w;
    const uint4 limits = plan_.limits;
    bool inside = true;
    maps_.in_kind([&](auto kind) {
      using Kind = decltype(kind);
      float2 dy[Kind::kSamples], dx[Kind::kSamples], mask[Kind::kSamples];
      maps_.template read<Kind>(dy, dx, mask);
      if (more) maps_.template copy_next<Kind>();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int k = i % Kind::kSamples;
        point[0][i] = {y_ + dy[k].x, x_ + dx[k].x, mask[k].x};
        point[1][i] = {y_ + dy[k].y, next_x + dx[k].y, mask[k].y};
        if (k < i) continue;
        for (const Point& p : {point[0][i], point[1][i]}) {
          const WindowSample at = window_sample(p.y, p.x, limits.x, limits.y);
          inside &= in_window(p.y, p.x, p.mask, at, limits.z, limits.w);
        }
      }
    });
    return __all_sync(~0u, inside);
  }

  template <int kSamples>
  __device__ __forceinline__ void mix_of_window(const Point (&point)[2][2],
                                                uint32_t (&value)[4][4]) const {
    const uint4 limits = plan_.limits;
    const int32_t columns = plan_.columns;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Point& p = point[j / 2][j % kSamples];
      const WindowSample at = window_sample(p.y, p.x, limits.x, limits.y);
      const int32_t pixel = at.row * columns + at.column;
      const uint8_t* const above =
          window_.pixel[0] + pixel * kSliceBytes + WindowMaps<Math>::vector_byte(lane_, j % 2);
      const uint8_t* const below = above + columns * kSliceBytes;
      uint4 corner[4];
      corner[0] = *reinterpret_cast<const uint4*>(above);
      corner[1] = *reinterpret_cast<const uint4*>(above + kSliceBytes);
      corner[2] = *reinterpret_cast<const uint4*>(below);
      corner[3] = *reinterpret_cast<const uint4*>(below + kSliceBytes);
      const WindowWeights w = window_weights(at, p.mask);
      Math::mix(corner, Math::weights({w.weight[0], w.weight[1], w.weight[2], w.weight[3]}),
                value[j]);
    }
  }

  // Missing vectors, and samples outside the image, are worth 0.
  __device__ __forceinline__ void mix_of_image(const Point (&point)[2][2],
                                               uint32_t (&value)[4][4]) const {
    const ConvShape& shape = params_.shape;
    const uint32_t pixel_bytes = params_.layout.channels * kElementBytes;
    const uint32_t row_bytes = shape.W * pixel_bytes;
    const int lane = unkept(lane_);
    const uint8_t* const image = static_cast<const uint8_t*>(params_.input) +
                                 plan_.image * (int64_t{shape.H} * row_bytes) +
                                 group_ * params_.layout.group_channels * kElementBytes;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Point& p = point[j / 2][j % 2];
      const FusedSample sample =
          fused_sample(p.y, p.x, p.mask, shape.H, shape.W, row_bytes, pixel_bytes, 0);
      const int32_t byte = slice_ + WindowMaps<Math>::vector_byte(lane, j % 2);
      const bool there = byte < group_bytes();
      uint4 corner[4];
      load_corners(image + (there ? byte : slice_), sample.corner, corner);
      Math::mix(corner, Math::weights(sample.weight), value[j]);
#pragma unroll
      for (int k = 0; k < 4; ++k) value[j][k] = sample.outside || !there ? 0 : value[j][k];
    }
  }

  __device__ __forceinline__ int32_t group_bytes() const {
    return params_.layout.group_channels * kElementBytes;
  }

  __device__ __forceinline__ void advance() {
    const ConvShape& shape = params_.shape;
    x_ += shape.dil_w;
    if (++kernel_column_ < shape.S) return;
    kernel_column_ = 0;
    const bool last = ++kernel_row_ == shape.R;
    x_ -= shape.S * shape.dil_w;
    y_ += (last ? 1 - shape.R : 1) * shape.dil_h;
    if (!last) return;
    kernel_row_ = 0;
    slice_ += kSliceBytes;
    filled_ = false;
  }

  const FpropParams& params_;
  const int lane_;
  const int32_t group_;
  WindowPlan& plan_;
  SliceWindow& window_;
  WindowMaps<Math> maps_;
  bool exists_, filled_;  // any pixel of the warp; the window, of this slice
  float y_, x_;           // of the tap at this lane's first pixel, without its offset
  int32_t kernel_row_, kernel_column_, slice_;  // slice: bytes from the group
};

}  // namespace dcn
