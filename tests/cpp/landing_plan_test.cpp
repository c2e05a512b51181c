#include "landing_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace dcn {
namespace {

ConvShape shape_of(int32_t N, int32_t H, int32_t W, int32_t stride, int32_t kernel, int32_t D) {
  ConvShape shape;
  shape.N = N, shape.C = 16 * D, shape.H = H, shape.W = W;
  shape.K = 64, shape.R = kernel, shape.S = kernel, shape.D = D;
  shape.stride_h = shape.stride_w = stride;
  shape.P = static_cast<int32_t>(output_size(H, kernel, stride, 0, 1));
  shape.Q = static_cast<int32_t>(output_size(W, kernel, stride, 0, 1));
  return shape;
}

const ConvShape kShapes[] = {
    shape_of(2, 128, 128, 1, 3, 1), shape_of(3, 7, 7, 1, 3, 1),     shape_of(1, 180, 320, 1, 3, 16),
    shape_of(4, 64, 33, 4, 3, 2),   shape_of(5, 40, 40, 1, 7, 1),   shape_of(2, 3, 3, 1, 3, 1),
    shape_of(2, 300, 300, 1, 3, 1), shape_of(2, 500, 400, 2, 3, 1), shape_of(1, 900, 900, 8, 1, 1),
};

TEST(LandingPlan, CountsSamplesAndBins) {
  const LandingPlan plan = landing_plan(shape_of(4, 20, 30, 2, 3, 2), 3, 64);
  EXPECT_EQ(plan.samples, 2 * 9 * 3 * 9 * 14);
  EXPECT_EQ(plan.bins, 2 * 9 * 3 * 21 * 31);
  EXPECT_EQ(plan.most_heavy_bins, plan.samples / (kHeavyBin + 1));
}

TEST(LandingPlan, PartsAreAlignedAndApart) {
  for (const ConvShape& shape : kShapes) {
    const LandingPlan plan = landing_plan(shape, shape.N, 72);
    const int64_t most = plan.most_heavy_bins;
    int64_t rows = most * 4 * 72 * 4;
    if (plan.bands == 0) rows = std::max(rows, plan.samples * 4);
    const std::vector<std::pair<int64_t, int64_t>> parts = {
        {plan.starts, (plan.bins + plan.planes) * kLandingStartBytes},
        {plan.heavy_bins, most * kHeavyBinBytes},
        {plan.heavy_rows, rows},
        {plan.records, plan.samples * kLandingRecordBytes}};
    int64_t end = 0;
    for (const auto& [begin, bytes] : parts) {
      EXPECT_EQ(begin % 256, 0);
      EXPECT_GE(begin, end);
      end = begin + bytes;
    }
    EXPECT_GE(plan.bytes, end);
    EXPECT_EQ(plan.bytes, landing_bytes(shape, shape.N, 72));
  }
}

TEST(LandingPlan, BandsMakeUpAPlane) {
  for (const ConvShape& shape : kShapes) {
    for (const int32_t images : {1, shape.N}) {
      const LandingPlan plan = landing_plan(shape, images, 64);
      const int64_t bins = int64_t{shape.H + 1} * (shape.W + 1);
      if (shape.output_pixels_per_image() > kMostPlaneSamples) {
        EXPECT_EQ(plan.bands, 0);
        continue;
      }
      EXPECT_GE(int64_t{plan.bands} * plan.band_bins, bins);
      EXPECT_LT((plan.bands - 1) * int64_t{plan.band_bins}, bins);
      EXPECT_LE(plan.band_bins, kMostBandBins);
      if (bins <= kMostBandBins) {
        EXPECT_LE(plan.bands, kMostBands);
      }
    }
  }
}

TEST(LandingPlan, ChunkIsTheLargestThatIsAllowed) {
  for (const ConvShape& shape : kShapes) {
    for (const int64_t allowance : {int64_t{1} << 12, int64_t{1} << 20, int64_t{1} << 26}) {
      const int32_t images = images_of_chunk(shape, 64, allowance);
      ASSERT_GE(images, 1);
      ASSERT_LE(images, shape.N);
      if (images > 1) {
        EXPECT_LE(landing_bytes(shape, images, 64), allowance);
      }
      if (images < shape.N) {
        EXPECT_GT(landing_bytes(shape, images + 1, 64), allowance);
      }
    }
  }
}

TEST(LandingPlan, BenchmarkLayersNeedNoMoreThanTheirAllowance) {
  const ConvShape centernet = shape_of(16, 128, 128, 1, 3, 1);
  EXPECT_GE(images_of_chunk(centernet, 64, int64_t{48} << 20), 8);
}

TEST(LandingPlan, RefusesMoreThan31Bits) {
  const ConvShape large = shape_of(64, 2050, 2050, 1, 3, 1);  // 37.7 million samples an image
  EXPECT_TRUE(why_not_landing(large, 56).empty());
  EXPECT_NE(why_not_landing(large, 57).find("31 bits"), std::string::npos);
  EXPECT_LE(images_of_chunk(large, 64, int64_t{1} << 62), 56);
  const ConvShape strided = shape_of(64, 2050, 2050, 8, 3, 1);  // few samples, as many bins
  EXPECT_FALSE(why_not_landing(strided, 57).empty());
}

}  // namespace
}  // namespace dcn
