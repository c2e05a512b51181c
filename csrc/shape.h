// ConvShape: the geometry of one deformable convolution as a validated value.
//
// Everything that follows from the sizes (output size, tap origin, GEMM sizes, index limits) is
// computed here and nowhere else. It is trivially copyable and travels into kernel parameters as it
// is.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DCN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DCN_HOST_DEVICE inline
#endif

namespace dcn {

// Output length along one axis of a convolution; less than 1 means the input is too small.
DCN_HOST_DEVICE int64_t output_size(int64_t input, int64_t kernel, int64_t stride, int64_t pad,
                                    int64_t dil) {
  const int64_t span = input + 2 * pad - dil * (kernel - 1) - 1;
  return span < 0 ? 0 : span / stride + 1;
}

// Letters as in the documentation: N C H W input, K R S weight, P Q output, G groups, D offset
// groups.
struct ConvShape {
  int32_t N = 0, C = 0, H = 0, W = 0;
  int32_t K = 0, R = 0, S = 0;
  int32_t P = 0, Q = 0;
  int32_t G = 1, D = 1;
  int32_t stride_h = 1, stride_w = 1;
  int32_t pad_h = 0, pad_w = 0;
  int32_t dil_h = 1, dil_w = 1;

  DCN_HOST_DEVICE int32_t taps() const { return R * S; }
  DCN_HOST_DEVICE int32_t channels_per_group() const { return C / G; }
  DCN_HOST_DEVICE int32_t channels_per_offset_group() const { return C / D; }
  // One group is worth a branch: a GPU divides in some 100 clocks.
  DCN_HOST_DEVICE int32_t output_channels_per_group() const { return G == 1 ? K : K / G; }
  DCN_HOST_DEVICE int32_t output_pixels_per_image() const { return P * Q; }
  DCN_HOST_DEVICE int64_t output_pixels() const { return int64_t{N} * P * Q; }
  DCN_HOST_DEVICE int64_t input_pixels() const { return int64_t{N} * H * W; }

  // The implicit GEMM of one convolution group: out[gemm_m, gemm_n] = columns[gemm_m, gemm_k] *
  // weight^T.
  DCN_HOST_DEVICE int64_t gemm_m() const { return output_pixels(); }
  DCN_HOST_DEVICE int32_t gemm_n() const { return K / G; }
  DCN_HOST_DEVICE int32_t gemm_k() const { return R * S * (C / G); }

  // Values in the column of one output pixel, all groups together.
  DCN_HOST_DEVICE int64_t column_length() const { return int64_t{R} * S * C; }

  // Where tap (r, s) of output pixel (p, q) samples when its offset is zero.
  DCN_HOST_DEVICE int32_t origin_y(int32_t p, int32_t r) const {
    return p * stride_h - pad_h + r * dil_h;
  }
  DCN_HOST_DEVICE int32_t origin_x(int32_t q, int32_t s) const {
    return q * stride_w - pad_w + s * dil_w;
  }

  // Kernels index with 64 bits to the base of an image and with 32 bits inside one. This holds when
  // no single image of the input, output, offset or mask, and not the weight, reaches 2^31
  // elements, nor a coordinate 2^24 (where f32 stops representing every integer).
  bool fits_int32() const {
    constexpr int64_t kLimit = (int64_t{1} << 31) - 1;
    constexpr int64_t kExactCoordinate = int64_t{1} << 24;
    const int64_t input_image = int64_t{H} * W * C;
    const int64_t output_image = int64_t{P} * Q * K;
    const int64_t offset_image = 2 * int64_t{D} * R * S * P * Q;
    const int64_t weight_size = column_length() / G * K;
    const int64_t reach_y = int64_t{P} * stride_h + pad_h + int64_t{R} * dil_h;
    const int64_t reach_x = int64_t{Q} * stride_w + pad_w + int64_t{S} * dil_w;
    return input_image <= kLimit && output_image <= kLimit && offset_image <= kLimit &&
           weight_size <= kLimit && reach_y < kExactCoordinate && reach_x < kExactCoordinate;
  }
};

}  // namespace dcn
