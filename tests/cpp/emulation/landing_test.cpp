// Landing lists of planes, executed by the emulator.
#include <gtest/gtest.h>

#include "cuda/kernels/landing/landing_heavy.cu"
#include "cuda/kernels/landing/landing_lists.cu"
#include "cuda/kernels/landing/landing_planes.cu"
#include "host_lists.h"
#include "runs.h"

namespace emulation {
namespace {

using Math = dcn::Math3xTf32;

const Convolution* sorted_by_host = nullptr;

}  // namespace
}  // namespace emulation

namespace dcn {

int64_t size_of(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }
// Lists of planes that are too large for the kernel of planes, which the emulator does not sort.
cudaError_t launch_landing_sort(const LandingWork& work, cudaStream_t) {
  emulation::HostLists<emulation::Math> host(*emulation::sorted_by_host, kHeavyBin);
  for (int64_t bin = 0; bin < int64_t{work.bins} + work.planes; ++bin) {
    work.starts[bin] = host.starts[bin];
  }
  for (uint32_t i = 0; i < kFirstRecord + work.samples; ++i) work.records[i] = host.records[i];
  uint32_t& heavy = *work.call.heavy_count;
  for (uint32_t bin = 0; bin + 1 < work.bins + work.planes; ++bin) {
    if (!(host.starts[bin] & kHeavyStart)) continue;
    work.heavy_bins[heavy++] = {bin, static_cast<int32_t>(host.starts[bin] & ~kHeavyStart),
                                static_cast<int32_t>(host.starts[bin + 1] & ~kHeavyStart), 0};
  }
  return cudaSuccess;
}

}  // namespace dcn

namespace emulation {
namespace {

// The sums of a heavy bin; its number is the mask of its first record.
void expect_sums(int32_t channels, const float* got, const float* wanted, float scale) {
  for (int32_t i = 0; i < 4 * channels; ++i) ASSERT_NEAR(got[i], wanted[i], 1e-6 * scale) << i;
}

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
  auto grad = padded_to_device<float>(conv.grad, shape.K, shape.G,
                                      dcn::fused_layout(dcn::transposed(shape), sizeof(float)));
  params.grad = grad.data();
  DeviceArray<uint8_t> workspace(dcn::landing_bytes(shape, images, shape.K));
  auto heavy_count = DeviceArray<uint32_t>::zeros(1);
  params.workspace = workspace.data();
  params.heavy_count = heavy_count.data();
  ASSERT_EQ(dcn::launch_landing_lists(params, nullptr), cudaSuccess);
  ASSERT_EQ(dcn::launch_heavy_sums(params, nullptr), cudaSuccess);
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
        const auto rows_of = [&](const float* rows, const dcn::LandingRecord& first) {
          return rows + int64_t{emulated_cast<uint32_t>(first.mask)} * 4 * shape.K;
        };
        const uint32_t at = begin & ~dcn::kHeavyStart, host_at = host_begin & ~dcn::kHeavyStart;
        expect_sums(shape.K, rows_of(lists.heavy_rows, lists.records[at]),
                    rows_of(host.heavy_rows.data(), host.records[host_at]),
                    static_cast<float>(count));
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
  const dcn::LandingRecord& none = lists.records[0];  // what no sample writes is read all the same
  EXPECT_EQ(none.row, 0u);
  EXPECT_EQ(none.mask, 0.f);
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

// On a map of more pixels than a bitmap has: bins that begin late, end early, or reach from one end
// to the other, one of them long.
TEST(Landing, HeavyBinsOfLargePlane) {
  Convolution conv(Sizes{1, 1, 300, 260, 4, 1, 1, 1, 1, 1, 0}, 24, .1f, 7);
  const dcn::ConvShape& shape = conv.shape;
  const int32_t pixels = shape.output_pixels_per_image();
  const auto gather = [&](int32_t begin, int32_t end, int32_t step, float place) {
    for (int32_t pixel = begin; pixel < end; pixel += step) {
      conv.offset[pixel] = place - shape.origin_y(pixel / shape.Q, 0);
      conv.offset[pixels + pixel] = place - shape.origin_x(pixel % shape.Q, 0);
    }
  };
  gather(0, pixels, 199, 20.25f);
  gather(70001, 70081, 1, 40.25f);
  gather(301, 361, 1, 60.25f);
  gather(2, pixels, 29, 80.25f);
  sorted_by_host = &conv;
  expect_lists(conv, 0, 1);
}

// More than kLongBin records in a bin beside a few others: of 40 channels, which have two items.
TEST(Landing, LongBins) {
  for (const float spread : {0.f, .4f, 3.f}) {
    Convolution conv(Sizes{2, 1, 70, 61, 40, 2, 1, 1, 1, 2, 0}, 24, 1.f, 7);
    const dcn::ConvShape& shape = conv.shape;
    const int32_t pixels = shape.output_pixels_per_image();
    for (size_t i = 0; i < conv.offset.size(); ++i) {
      const auto pixel = static_cast<int>(i % pixels), channel = static_cast<int>(i / pixels % 4);
      const float place = 3.25f + spread * static_cast<float>(i * 7919 % 1000) / 1000;
      conv.offset[i] = place - (channel % 2 ? shape.origin_x(pixel % shape.Q, 0)
                                            : shape.origin_y(pixel / shape.Q, channel / 2));
    }
    expect_lists(conv, 0, 2);
  }
}

}  // namespace
}  // namespace emulation
