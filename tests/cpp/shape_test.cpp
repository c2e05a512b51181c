#include "shape.h"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

namespace dcn {
namespace {

static_assert(std::is_trivially_copyable_v<ConvShape>, "it travels into kernel parameters");

ConvShape make(int32_t N, int32_t C, int32_t H, int32_t W, int32_t K, int32_t R, int32_t S) {
  ConvShape shape;
  shape.N = N, shape.C = C, shape.H = H, shape.W = W;
  shape.K = K, shape.R = R, shape.S = S;
  shape.P = static_cast<int32_t>(output_size(H, R, 1, 0, 1));
  shape.Q = static_cast<int32_t>(output_size(W, S, 1, 0, 1));
  return shape;
}

// The definition: how many positions of the dilated kernel lie within the padded input.
int64_t count_positions(int64_t input, int64_t kernel, int64_t stride, int64_t pad, int64_t dil) {
  int64_t count = 0;
  for (int64_t start = -pad; start + dil * (kernel - 1) < input + pad; start += stride) ++count;
  return count;
}

TEST(OutputSize, CountsThePositionsOfTheKernel) {
  for (int input = 1; input <= 9; ++input) {
    for (int kernel = 1; kernel <= 5; ++kernel) {
      for (int stride = 1; stride <= 4; ++stride) {
        for (int pad = 0; pad <= 3; ++pad) {
          for (int dil = 1; dil <= 3; ++dil) {
            EXPECT_EQ(output_size(input, kernel, stride, pad, dil),
                      count_positions(input, kernel, stride, pad, dil))
                << "input " << input << " kernel " << kernel << " stride " << stride << " pad "
                << pad << " dil " << dil;
          }
        }
      }
    }
  }
}

TEST(OutputSize, IsZeroWhereTheKernelDoesNotFit) {
  EXPECT_EQ(output_size(1, 3, 1, 0, 1), 0);
  EXPECT_EQ(output_size(2, 3, 4, 0, 1), 0);  // a division that rounds to zero would say 1 here
  EXPECT_EQ(output_size(4, 3, 7, 0, 2), 0);
}

TEST(OutputSize, HasRoomForTheLargestArguments) {
  const int64_t large = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(output_size(large, 1, 1, large, 1), 3 * large);
  EXPECT_EQ(output_size(1, large, 1, 0, large), 0);
}

TEST(ConvShape, TapOrigins) {
  ConvShape shape = make(1, 1, 9, 9, 1, 3, 3);
  shape.stride_h = 2, shape.stride_w = 3;
  shape.pad_h = 1, shape.pad_w = 4;
  shape.dil_h = 5, shape.dil_w = 2;
  EXPECT_EQ(shape.origin_y(0, 0), -1);
  EXPECT_EQ(shape.origin_x(0, 0), -4);
  EXPECT_EQ(shape.origin_y(3, 2), 3 * 2 - 1 + 2 * 5);
  EXPECT_EQ(shape.origin_x(3, 2), 3 * 3 - 4 + 2 * 2);
}

TEST(ConvShape, GemmSizes) {
  ConvShape shape = make(3, 12, 10, 11, 8, 2, 3);
  shape.G = 4, shape.D = 6;
  EXPECT_EQ(shape.gemm_m(), 3 * 9 * 9);
  EXPECT_EQ(shape.gemm_n(), 2);
  EXPECT_EQ(shape.gemm_k(), 2 * 3 * 3);
  EXPECT_EQ(shape.taps(), 6);
  EXPECT_EQ(shape.channels_per_group(), 3);
  EXPECT_EQ(shape.channels_per_offset_group(), 2);
  EXPECT_EQ(shape.output_channels_per_group(), 2);
  EXPECT_EQ(shape.output_pixels_per_image(), 81);
  EXPECT_EQ(shape.column_length(), 2 * 3 * 12);
}

// A batch may be as large as memory: only what lies inside one image is indexed with 32 bits.
TEST(ConvShape, BatchesBeyondTwoToThe31) {
  const ConvShape shape = make(70000, 64, 128, 128, 64, 3, 3);
  EXPECT_TRUE(shape.fits_int32());
  EXPECT_EQ(shape.input_pixels() * shape.C, int64_t{70000} * 64 * 128 * 128);
  EXPECT_EQ(shape.output_pixels(), int64_t{70000} * 126 * 126);
  EXPECT_EQ(shape.gemm_m(), shape.output_pixels());
}

TEST(FitsInt32, AtTheLimitOfTheInputImage) {
  EXPECT_TRUE(make(1, 32767, 256, 256, 1, 1, 1).fits_int32());
  EXPECT_FALSE(make(1, 32768, 256, 256, 1, 1, 1).fits_int32());
}

TEST(FitsInt32, AtTheLimitOfTheOutputImage) {
  EXPECT_TRUE(make(1, 1, 256, 256, 32767, 1, 1).fits_int32());
  EXPECT_FALSE(make(1, 1, 256, 256, 32768, 1, 1).fits_int32());
}

TEST(FitsInt32, AtTheLimitOfTheOffset) {
  ConvShape shape = make(1, 16, 16383 + 6, 128 + 6, 1, 7, 7);  // [2*D*49, 16383, 128]
  shape.D = 8;
  EXPECT_TRUE(shape.fits_int32());
  shape.D = 16;
  EXPECT_FALSE(shape.fits_int32());
}

TEST(FitsInt32, AtTheLimitOfTheWeight) {
  EXPECT_TRUE(make(1, 32768, 1, 1, 65535, 1, 1).fits_int32());
  EXPECT_FALSE(make(1, 32768, 1, 1, 65536, 1, 1).fits_int32());
}

TEST(FitsInt32, WhereCoordinatesLoseIntegers) {
  EXPECT_TRUE(make(1, 1, 1, (1 << 24) - 2, 1, 1, 1).fits_int32());
  EXPECT_FALSE(make(1, 1, 1, 1 << 24, 1, 1, 1).fits_int32());
  EXPECT_FALSE(make(1, 1, 1 << 24, 1, 1, 1, 1).fits_int32());
}

}  // namespace
}  // namespace dcn
