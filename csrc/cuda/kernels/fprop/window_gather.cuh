// The gather for offset groups narrower than a slice on compute capability 9.0: each vector of a
// lane may lie in an offset group of its own, so a lane plans its own samples, in registers, from
// offsets that were copied a step earlier (window_maps.cuh), while the step before is multiplied.
//
// Each lane of a load would touch a line of its own, and the L1 looks up four in a clock. So a CTA
// copies a window of the image into shared memory, once a slice: what lies around its tile's
// pixels, with zeros outside the image. A warp whose samples all lie in the window reads them there
// without a look at the image's border; in any other, lanes read from wherever their sample lies:
// the longer offsets are, the more of them through the L1, and nothing is decided for a whole tile.
// A tile is a cell of one image (WindowCells): a warp has 16 pixels of a row, or none, where a cell
// is lower than a tile could be.
#pragma once

#include "slice_window.cuh"
#include "window_maps.cuh"

namespace dcn {

// Of a warp; it lies where the epilogue exchanges sums.
struct WindowPlan {
  WindowPlace window;
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
    plan_.window = place_window<kWindowPixels>(shape, row.at, slice_, window_);
    __syncwarp();
    ask_for_window<kElementBytes>(params_, plan_.window, group_, slice_, unkept(lane_), window_);
    exists_ = __any_sync(~0u, row.exists);
    if (exists_) begin_maps(row, at);
    wait_for_window();
  }

  // `wait`: for the multiplications of the step before, whose registers the values take.
  template <class Wait>
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more, Wait wait) {
    if ((kernel_row_ | kernel_column_) == 0 && plan_.window.slice != slice_) {
      __syncthreads();  // no warp reads the slice before
      plan_.window.slice = slice_;
      ask_for_window<kElementBytes>(params_, plan_.window, group_, slice_, unkept(lane_), window_);
      wait_for_window();
    }
    if (maps_.shared()) {
      step<1>(value, more, wait);
    } else {
      step<2>(value, more, wait);
    }
    advance();
  }

 private:
  struct Point {
    float y, x, mask;
  };
  static constexpr int kElementBytes = sizeof(typename Math::Element);

  __device__ __forceinline__ void begin_maps(const TileRow& row, FusedStep at) {
    OutputPixel pixel[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int from = lane_ / 4 + 8 * r;
      pixel[r] = {row.at.n, row.at.p, __shfl_sync(~0u, row.at.q, from)};
    }
    y_ = params_.shape.origin_y(row.at.p, kernel_row_);
    x_ = params_.shape.origin_x(pixel[0].q, kernel_column_);
    maps_.begin(row.at, pixel, at);
  }

  // kSamples: of a lane, for each of its two rows.
  template <int kSamples, class Wait>
  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more, Wait wait) {
    if (!exists_) {
      wait();
#pragma unroll
      for (int i = 0; i < 16; ++i) value[i / 4][i % 4] = 0;
      return;
    }
    float2 dy[kSamples], dx[kSamples], mask[kSamples];
    maps_.template in_kind<kSamples == 1>([&](auto kind) {
      using Kind = decltype(kind);
      maps_.template read<Kind>(dy, dx, mask);
      if (more) maps_.template copy_next<Kind>();
    });
    const float next_x = x_ + params_.shape.stride_w;
    Point point[2][kSamples];
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      point[0][i] = {y_ + dy[i].x, x_ + dx[i].x, mask[i].x};
      point[1][i] = {y_ + dy[i].y, next_x + dx[i].y, mask[i].y};
    }
    const uint4 limits = plan_.window.limits;
    if (min(static_cast<int32_t>(limits.x), static_cast<int32_t>(limits.y)) < 0) {
#pragma unroll
      for (int j = 0; j < 2 * kSamples; ++j) {
        Point& p = point[j / kSamples][j % kSamples];
        move_off_border(p.y);
        move_off_border(p.x);
      }
    }
    const uint32_t row_bytes = plan_.window.columns * kSliceBytes;
    uint32_t at[2][kSamples];  // of the corners 0: bytes of the window
    bool inside = true;
#pragma unroll
    for (int j = 0; j < 2 * kSamples; ++j) {
      const int r = j / kSamples, i = j % kSamples;
      const Point& p = point[r][i];
      const WindowSample sample = window_sample(p.y, p.x, limits.x, limits.y);
      inside &= in_window(p.mask, sample, limits.z, limits.w);
      at[r][i] = ptx::settled(sample.row * row_bytes + sample.column * kSliceBytes);
    }
    inside = __all_sync(~0u, inside);
    wait();
    if (inside) {
      mix_of_window(point, at, row_bytes, value);
    } else {
      mix_of_both(point, value);
    }
  }

  // Weights are found while corners are on their way: fractions again, for which there is no
  // register before.
  template <int kSamples>
  __device__ __forceinline__ void mix_of_window(const Point (&point)[2][kSamples],
                                                const uint32_t (&at)[2][kSamples],
                                                uint32_t row_bytes, uint32_t (&value)[4][4]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      uint4 weight[kSamples];
#pragma unroll
      for (int i = 0; i < kSamples; ++i) {
        const Point& p = point[r][i];
        const WindowSample sample = window_sample(ptx::settled(p.y), ptx::settled(p.x), 0, 0);
        const WindowWeights w = window_weights(sample, p.mask);
        weight[i] = Math::weights({w.weight[0], w.weight[1], w.weight[2], w.weight[3]});
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint8_t* const above =
            window_.pixel[0] + at[r][i % kSamples] + WindowMaps<Math>::vector_byte(lane_, i);
        const uint8_t* const below = above + row_bytes;
        uint4 corner[4];
        corner[0] = *reinterpret_cast<const uint4*>(above);
        corner[1] = *reinterpret_cast<const uint4*>(above + kSliceBytes);
        corner[2] = *reinterpret_cast<const uint4*>(below);
        corner[3] = *reinterpret_cast<const uint4*>(below + kSliceBytes);
        Math::mix(corner, weight[i % kSamples], value[2 * r + i]);
      }
    }
  }

  // Where some samples of the warp are not in the window: theirs are read from the image, by the
  // same loads, whose addresses say where. Missing vectors, and samples outside the image, are
  // worth 0.
  template <int kSamples>
  __device__ __forceinline__ void mix_of_both(const Point (&point)[2][kSamples],
                                              uint32_t (&value)[4][4]) const {
    const ConvShape& shape = params_.shape;
    const int lane = unkept(lane_);
    const uint4 limits = plan_.window.limits;
    const uint32_t pixel_bytes = params_.layout.channels * kElementBytes;
    const uint32_t row_bytes = shape.W * pixel_bytes,
                   window_row_bytes = plan_.window.columns * kSliceBytes;
    const uint8_t* const image = static_cast<const uint8_t*>(params_.input) +
                                 plan_.window.image * (int64_t{shape.H} * row_bytes) +
                                 group_ * params_.layout.group_channels * kElementBytes + slice_;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      FusedSample sample[kSamples];
      const uint8_t* from[kSamples];
#pragma unroll
      for (int i = 0; i < kSamples; ++i) {
        const Point& p = point[r][i];
        const WindowSample at = window_sample(p.y, p.x, limits.x, limits.y);
        const bool inside = in_window(p.mask, at, limits.z, limits.w) && p.y > -1.f && p.x > -1.f &&
                            shape.H > p.y && shape.W > p.x;
        const uint32_t row_step = inside ? window_row_bytes : row_bytes;
        const uint32_t step = inside ? kSliceBytes : pixel_bytes;
        const uint32_t origin = inside ? 0u - limits.x * row_step - limits.y * step : 0u;
        sample[i] = fused_sample(p.y, p.x, p.mask, shape.H, shape.W, row_step, step, origin);
        from[i] = inside ? window_.pixel[0] : image;
      }
      // Where two vectors share a sample, they are neighbours: the second is met in the L1 if it is
      // asked for at once.
      bool there[2];
      uint4 corner[2][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int32_t byte = WindowMaps<Math>::vector_byte(lane, i);
          there[i] = byte < group_bytes() - slice_;
          corner[i][k] = ptx::load_vector(from[i % kSamples] + (there[i] ? byte : 0) +
                                          register_of(sample[i % kSamples].corner, k));
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t(&to)[4] = value[2 * r + i];
        Math::mix(corner[i], Math::weights(sample[i % kSamples].weight), to);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          to[k] = sample[i % kSamples].outside || !there[i] ? 0 : to[k];
        }
      }
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
  }

  const FpropParams& params_;
  const int lane_;
  const int32_t group_;
  WindowPlan& plan_;
  SliceWindow& window_;
  WindowMaps<Math> maps_;
  bool exists_;  // any pixel of the warp
  float y_, x_;  // of the tap at this lane's first pixel, without its offset
  int32_t kernel_row_, kernel_column_, slice_;  // slice: bytes from the group
};

}  // namespace dcn
