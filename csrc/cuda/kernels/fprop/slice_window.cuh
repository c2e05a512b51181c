// The window of the image that a CTA keeps in shared memory for a slice of the channels
// (window_gather.cuh).
#pragma once

#include <cstddef>

#include "../fused/fused_gather.cuh"

namespace dcn {

// Of a CTA.
struct SliceWindow {
  OutputPixel first, last;  // of the tile
  alignas(kWindowHeader) uint8_t pixel[1][kSliceBytes];
};
static_assert(offsetof(SliceWindow, pixel) == kWindowHeader);

// Of a warp.
struct WindowPlace {
  uint4 limits;     // y, x, rows and columns of the corners 0 that the window serves
  int32_t columns;  // of the window
  int32_t image;
  int32_t slice;  // that the window holds
};

// Around the tile; not all of it, where shared memory has not the room. `own`: the pixel of this
// thread; `slice`: bytes from the group.
template <int kWindowPixels>
__device__ __forceinline__ WindowPlace place_window(const ConvShape& shape, OutputPixel own,
                                                    int32_t slice, SliceWindow& window) {
  if (threadIdx.x == 0) window.first = own;
  if (threadIdx.x == blockDim.x - 1) window.last = own;
  __syncthreads();
  const OutputPixel first = window.first, last = window.last;
  const int32_t y = shape.origin_y(first.p, 0) - kWindowMargin;
  const int32_t x = shape.origin_x(first.q, 0) - kWindowMargin;
  const int32_t rows =
      min(shape.origin_y(last.p, shape.R - 1) + kWindowMargin + 2 - y, kWindowPixels / 2);
  const int32_t columns =
      min(shape.origin_x(last.q, shape.S - 1) + kWindowMargin + 2 - x, kWindowPixels / rows);
  return {make_uint4(y, x, rows - 1, columns - 1), columns, first.n, slice};
}

// Asks for the slice, where no warp reads another one any more. A warp copies whole rows, four
// pixels a copy.
template <int kElementBytes>
__device__ __forceinline__ void ask_for_window(const FpropParams& params, const WindowPlace& place,
                                               int32_t group, int32_t slice, int lane,
                                               SliceWindow& window) {
  constexpr int kPixels = 32 / kSliceVectors;
  const ConvShape& shape = params.shape;
  const uint4 limits = place.limits;
  const int32_t pixel = lane / kSliceVectors, byte = lane % kSliceVectors * kVectorBytes;
  const int32_t pixel_bytes = params.layout.channels * kElementBytes;
  const int32_t group_bytes = params.layout.group_channels * kElementBytes;
  const int64_t row_bytes = int64_t{shape.W} * pixel_bytes;
  const int32_t rows = limits.z + 1, columns = place.columns;
  const int32_t top = limits.x, column = static_cast<int32_t>(limits.y) + pixel;
  const bool there = byte < group_bytes - slice;
  const uint8_t* const row_from = static_cast<const uint8_t*>(params.input) +
                                  (int64_t{place.image} * shape.H + top) * row_bytes +
                                  int64_t{column} * pixel_bytes + group * group_bytes + slice +
                                  byte;
  const uint32_t first = ptx::shared_address(window.pixel[pixel]) + byte;
  for (int32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
    const bool row_there =
        there && static_cast<uint32_t>(top + row) < static_cast<uint32_t>(shape.H);
    const uint8_t* from = row_from + row * row_bytes;
    uint32_t to = first + row * columns * kSliceBytes;
#pragma unroll 4
    for (int32_t i = 0; i < columns; i += kPixels) {
      if (pixel < columns - i) {
        ptx::copy_vector_or_zeros(
            to, from,
            row_there && static_cast<uint32_t>(column + i) < static_cast<uint32_t>(shape.W));
      }
      from += kPixels * pixel_bytes;
      to += kPixels * kSliceBytes;
    }
  }
}
__device__ __forceinline__ void wait_for_window() {
  ptx::wait_for_copies();
  __syncthreads();
}

}  // namespace dcn
