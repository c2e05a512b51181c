// Landing lists of planes, executed by the emulator.
#include <gtest/gtest.h>

#include "cuda/kernels/landing/landing_lists.cu"
#include "cuda/kernels/landing/landing_planes.cu"
#include "host_lists.h"
#include "runs.h"

namespace dcn {

int64_t size_of(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }
// No list of these tests needs the former, and none looks at the sums of the latter.
cudaError_t launch_landing_sort(const LandingWork&, cudaStream_t) { return cudaErrorInvalidValue; }
cudaError_t launch_landing_heavy(const LandingWork&, int64_t, cudaStream_t) { return cudaSuccess; }

}  // namespace dcn

namespace emulation {
namespace {

using Math = dcn::Math3xTf32;

void expect_lists(const Convolution& conv, int first_image, int images) {
  const dcn::ConvShape& shape = conv.shape;
  DeviceMap<Math> offset(shape, conv.offset, 2 * shape.D * shape.taps(), false);
  DeviceMap<Math> mask(shape, conv.mask, shape.D * shape.taps(), false);
  dcn::LandingParams params{};
  params.shape = shape;
  params.first_image = first_image;
  params.images = images;
  params.offset = offset.map;
  if (conv.has_mask) params.mask = mask.map;
  params.grad_dtype = dcn::Dtype::kF32;
  params.grad_channels = shape.K;
  DeviceArray<uint8_t> workspace(dcn::landing_bytes(shape, images, shape.K));
  auto heavy_count = DeviceArray<uint32_t>::zeros(1);
  params.workspace = workspace.data();
  params.heavy_count = heavy_count.data();
  ASSERT_EQ(dcn::launch_landing_lists(params, nullptr), cudaSuccess);
  ASSERT_TRUE(workspace.guards_intact() && heavy_count.guards_intact());

  HostLists<Math> host(conv, dcn::kHeavyBin);
  const dcn::LandingLists lists = dcn::landing_lists(params);
  const int64_t plane_starts = int64_t{shape.H + 1} * (shape.W + 1) + 1;
  const int32_t pixels = shape.output_pixels_per_image();
  uint32_t heavy = 0;
  for (int64_t plane = 0; plane < int64_t{shape.D} * shape.taps() * images; ++plane) {
    const int64_t map = plane / images, image = plane % images;
    for (int64_t bin = 0; bin + 1 < plane_starts; ++bin) {
      const int64_t here = plane * plane_starts + bin;
      const int64_t there = (map * shape.N + first_image + image) * plane_starts + bin;
      const uint32_t begin = lists.starts[here], end = lists.starts[here + 1] & ~dcn::kHeavyStart;
      const uint32_t host_begin = host.starts[there];
      const uint32_t count =
          (host.starts[there + 1] & ~dcn::kHeavyStart) - (host_begin & ~dcn::kHeavyStart);
      ASSERT_EQ(begin & dcn::kHeavyStart, host_begin & dcn::kHeavyStart) << plane << ", " << bin;
      ASSERT_EQ(end - (begin & ~dcn::kHeavyStart), count) << plane << ", " << bin;
      if (begin & dcn::kHeavyStart) {
        ++heavy;
        continue;
      }
      for (uint32_t i = 0; i < count; ++i) {
        const dcn::LandingRecord& got = lists.records[begin + i];
        const dcn::LandingRecord& wanted = host.records[host_begin + i];
        ASSERT_EQ(got.row, wanted.row - first_image * pixels) << plane << ", " << bin;
        ASSERT_EQ(got.mask, wanted.mask);
        ASSERT_NEAR(got.y, wanted.y, 1e-5);
        ASSERT_NEAR(got.x, wanted.x, 1e-5);
      }
    }
  }
  EXPECT_EQ(heavy_count[0], heavy);
  allow_nothing();
}

TEST(Landing, Spread) {
  uint32_t number = 0;
  for (const Sizes& sizes : {Sizes{2, 1, 9, 9, 4}, Sizes{3, 2, 5, 7, 4, 1, 1, 1, 2, 2, 0, 1, false},
                             Sizes{1, 1, 70, 61, 4}, Sizes{3, 1, 33, 40, 4, 3, 3, 1, 1, 2}}) {
    for (const float spread : {.3f, 3.f}) {
      seed(++number);
      const Convolution conv(sizes, 24, spread, number);
      expect_lists(conv, 0, sizes.N);
      if (sizes.N > 1) expect_lists(conv, 1, sizes.N - 1);
    }
  }
}

// Without a place to keep the bins of a plane.
TEST(Landing, LargePlane) {
  expect_lists(Convolution(Sizes{1, 1, 150, 200, 4, 1, 1, 1, 1, 1, 0}, 24, 1.f, 7), 0, 1);
}

TEST(Landing, HeavyBins) {
  Convolution conv(Sizes{2, 1, 24, 24, 4}, 24, 1.f, 7);
  const dcn::ConvShape& shape = conv.shape;
  const int32_t pixels = shape.output_pixels_per_image();
  for (int channel = 0; channel < 4; ++channel) {
    for (int pixel = 0; pixel < pixels / 2; ++pixel) {
      const int p = pixel / shape.Q, q = pixel % shape.Q;
      conv.offset[static_cast<size_t>(channel * pixels + pixel)] =
          3.25f + (channel % 2 ? -shape.origin_x(q, channel / 2) : -shape.origin_y(p, 0));
    }
  }
  expect_lists(conv, 0, 2);
}

}  // namespace
}  // namespace emulation
