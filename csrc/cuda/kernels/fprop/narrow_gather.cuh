// The gather for offset groups narrower than a slice: the vectors of a lane lie in groups of their
// own, so a lane plans its own samples, in registers, each for one vector.
//
// Half a step is one row: its two samples. While the corners of a half are on their way, the next
// half is planned from offsets loaded a step earlier:
//
//   half k     plan k + 1, load the offsets of k + 3, mix k, load the corners of k + 1
#pragma once

#include "../fused/fused_gather.cuh"

namespace dcn {

template <class Math>
class NarrowGather {
 public:
  __device__ __forceinline__ NarrowGather(const FpropParams& params, uint8_t*, int32_t group,
                                          int thread)
      : params_(params), lane_(thread % 32), group_(group) {}

  // All steps: nothing is planned for a chunk.
  static __device__ __forceinline__ int32_t run_length(const FpropParams& params, FusedStep) {
    return params.layout.steps;
  }

  template <class RowOf>
  __device__ __forceinline__ void begin_tiles(RowOf row_of, FusedStep at) {
    begin(row_of(0), at);
  }
  __device__ __forceinline__ void begin(const TileRow& row, FusedStep at) {
    const int32_t first_image = __shfl_sync(~0u, row.at.n, 0);  // of the warp
    const int64_t image_elements =
        int64_t{params_.shape.H} * params_.shape.W * params_.layout.channels;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int from = lane_ / 4 + 8 * r;
      const OutputPixel pixel{__shfl_sync(~0u, row.at.n, from), __shfl_sync(~0u, row.at.p, from),
                              __shfl_sync(~0u, row.at.q, from)};
      exists_[r] = __shfl_sync(~0u, row.exists, from);
      image_base_[r] =
          static_cast<uint32_t>((pixel.n - first_image) * image_elements) * kElementBytes;
      y_[r] = params_.shape.origin_y(pixel.p, 0);
      x_[r] = params_.shape.origin_x(pixel.q, 0);
      offset_[r] = at_pixel(params_.offset, pixel);
      mask_[r] = at_pixel(params_.mask, pixel);
    }
    tap_ = at.tap;
    const int32_t group_bytes = params_.layout.group_channels * kElementBytes;
    left_ = group_bytes - at.slice * kSliceBytes;
    const uint8_t* slice =
        static_cast<const uint8_t*>(params_.input) +
        (first_image * image_elements + group_ * params_.layout.group_channels) * kElementBytes +
        at.slice * kSliceBytes;
    vectors_.locate(slice, left_, lane_);
    raw_tap_ = tap_;
    raw_left_ = left_;
    locate_maps();
    load_raw(0);
    load_raw(1);
    plan(0);
    load_corners();
    advance_raw();
    load_raw(0);
  }

  __device__ __forceinline__ void step(uint32_t (&value)[4][4], bool more, int = 0) {
    plan(1);
    load_raw(1);
    mix(0, value);
    load_corners();
    if (++tap_ == params_.shape.taps()) {
      tap_ = 0;
      left_ -= kSliceBytes;
      vectors_.next(left_, lane_);
    }
    if (more) plan(0);
    advance_raw();
    load_raw(0);
    mix(1, value);
    if (more) load_corners();
  }

 private:
  static constexpr int kElementBytes = sizeof(typename Math::Element);

  // The step whose offsets are loaded next; it stays at the last one.
  __device__ __forceinline__ void advance_raw() {
    if (++raw_tap_ < params_.shape.taps()) return;
    if (raw_left_ <= kSliceBytes) {
      --raw_tap_;
      return;
    }
    raw_tap_ = 0;
    raw_left_ -= kSliceBytes;
    locate_maps();
  }

  // The first map of the offset group of each vector of that step.
  __device__ __forceinline__ void locate_maps() {
    const int32_t end = (group_ + 1) * params_.layout.group_channels;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t byte = LaneVectors::byte(lane_, i);
      const int32_t channel = end - (raw_left_ - (byte < raw_left_ ? byte : 0)) / kElementBytes;
      map_[i] = params_.offset_group.quotient(channel) * params_.shape.taps();
    }
  }

  static __device__ __forceinline__ bool is_short(const SamplingMap& map) {
    return kElementBytes == 2 && map.dtype != Dtype::kF32;
  }
  static __device__ __forceinline__ const uint8_t* at_pixel(const SamplingMap& map,
                                                            OutputPixel pixel) {
    return static_cast<const uint8_t*>(map.data) +
           map_index(map, pixel, 0) * (is_short(map) ? 2 : 4);
  }
  // `step`: bytes from channel to channel.
  static __device__ __forceinline__ uint32_t load_map(const SamplingMap& map, const uint8_t* pixel,
                                                      int32_t channel, int32_t step) {
    const uint8_t* from = ptx::step_ahead(pixel, channel, step);
    if (is_short(map)) return __ldg(reinterpret_cast<const uint16_t*>(from));
    return __ldg(reinterpret_cast<const uint32_t*>(from));
  }
  static __device__ __forceinline__ float value_of(const SamplingMap& map, uint32_t loaded) {
    if constexpr (kElementBytes == 2) {
      if (is_short(map)) return Math::wide(loaded);
    }
    return __uint_as_float(loaded);
  }

  // Offsets and masks of row r; they are planned by the next call of plan(r).
  __device__ __forceinline__ void load_raw(int r) {
    const int32_t offset_step = params_.offset.stride_c * (is_short(params_.offset) ? 2 : 4);
    const int32_t mask_step = params_.mask.stride_c * (is_short(params_.mask) ? 2 : 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t map = map_[i] + raw_tap_;
      dy_[r][i] = load_map(params_.offset, offset_[r], 2 * map, offset_step);
      dx_[r][i] = load_map(params_.offset, offset_[r], 2 * map + 1, offset_step);
      if (params_.mask.data != nullptr) {
        modulation_[r][i] = load_map(params_.mask, mask_[r], map, mask_step);
      }
    }
  }

  __device__ __forceinline__ void plan(int r) {
    const ConvShape& shape = params_.shape;
    const int32_t kernel_row = params_.kernel_width.quotient(tap_);
    const int32_t kernel_column = tap_ - kernel_row * shape.S;
    const uint32_t pixel_bytes = params_.layout.channels * kElementBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float m =
          params_.mask.data == nullptr ? 1.f : value_of(params_.mask, modulation_[r][i]);
      const FusedSample sample =
          fused_sample(y_[r] + static_cast<float>(kernel_row * shape.dil_h) +
                           value_of(params_.offset, dy_[r][i]),
                       x_[r] + static_cast<float>(kernel_column * shape.dil_w) +
                           value_of(params_.offset, dx_[r][i]),
                       exists_[r] ? m : 0.f, shape.H, shape.W, shape.W * pixel_bytes, pixel_bytes,
                       image_base_[r]);
      weight_[r][i] = Math::weights(sample.weight);
      planned_[i] = sample.corner;
      empty_[r][i] = sample.outside || !exists_[r] || LaneVectors::byte(lane_, i) >= left_;
    }
  }

  // Of the samples planned last.
  __device__ __forceinline__ void load_corners() {
#pragma unroll
    for (int i = 0; i < 2; ++i) dcn::load_corners(vectors_.at[i], planned_[i], corner_[i]);
  }

  __device__ __forceinline__ void mix(int r, uint32_t (&value)[4][4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) Math::mix(corner_[i], weight_[r][i], value[2 * r + i]);
    if (!__any_sync(~0u, empty_[r][0] || empty_[r][1])) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        value[2 * r + i][k] = empty_[r][i] ? 0 : value[2 * r + i][k];
      }
    }
  }

  const FpropParams& params_;
  const int lane_;
  const int32_t group_;
  bool exists_[2];                       // of this lane's rows
  uint32_t image_base_[2];               // bytes from the warp's first image
  float y_[2], x_[2];                    // of the first tap without its offset
  const uint8_t *offset_[2], *mask_[2];  // channel 0 of the maps
  int32_t tap_, left_;                   // left: bytes of the group from the slice on
  int32_t raw_tap_, raw_left_;           // the same of the step whose offsets are loaded next
  int32_t map_[2];
  LaneVectors vectors_;
  uint32_t dy_[2][2], dx_[2][2], modulation_[2][2];  // [row][vector]
  uint4 weight_[2][2];                               // [row][vector]
  bool empty_[2][2];
  uint4 planned_[2],
      corner_[2][4];  // of one row: the offsets planned last, the corners on their way
};

}  // namespace dcn
