// The input gradient of compute capability 9.0, executed by the emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dgrad_run.h"

namespace emulation {
namespace {

constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3},
    {2, 20, 7, 19, 40, 3, 3},
    {1, 200, 8, 7, 136, 3, 3, 1, 1, 2, 1},
    {1, 128, 6, 9, 72, 3, 3, 2, 2},
    {1, 256, 6, 9, 72, 3, 2, 1, 2, 1, 1, 1, /*mask=*/false},
    {3, 3, 5, 4, 5, 5, 1, 1, 1, 1, 2},
    {1, 8, 7, 7, 64, 7, 7, 1, 1, 1, 3},
    // Lines of whole vectors of 4, 8 and 2 pixels.
    {2, 24, 6, 20, 40, 3, 3},
    {2, 24, 5, 24, 40, 3, 3},
    {2, 24, 5, 10, 40, 3, 3},
};

template <class Math>
class Dgrad : public testing::Test {
 protected:
  DgradResult check(const Convolution& conv, const GemmRun& run, int heavy, const char* what) {
    const DgradResult result = run_dgrad<Math>(conv, run, heavy);
    EXPECT_LT(error_of(result.grad_input, conv.grad_input()), kTolerance<Math>)
        << what << ", tile " << run.tile << ", split " << run.split_k;
    return result;
  }
};
TYPED_TEST_SUITE(Dgrad, Maths);

TYPED_TEST(Dgrad, EveryTile) {
  for (int tile = 0; tile < dcn::kDgradTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      ++number;
      GemmRun run;
      run.tile = tile;
      run.split_k = 1 + static_cast<int>(number + tile) % dcn::kMostParts;
      run.nchw = number % 2 == 0 || sizes.W % 2 == 0;
      if (!dgrad_fits(shape_of(sizes), TypeParam::kKind, tile, run.split_k)) continue;
      seed(number);
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/1.f, number);
      const DgradResult result = this->check(conv, run, dcn::kHeavyBin, "spread");
      EXPECT_EQ(result.irregular_tiles, 0);
    }
  }
}

// Offsets by which all samples of the first taps land within `height` rows of the image.
void crowd(Convolution& conv, float height, int taps = 9) {
  const dcn::ConvShape& shape = conv.shape;
  size_t i = 0;
  for (int channel = 0; channel < 2 * taps; ++channel) {
    for (int p = 0; p < shape.P; ++p) {
      for (int q = 0; q < shape.Q; ++q, ++i) {
        const float place = static_cast<float>(i * 7919 % 1000) / 1000;
        conv.offset[i] = channel % 2 ? place * 12 - shape.origin_x(q, channel / 2 % shape.S)
                                     : place * height - shape.origin_y(p, channel / 2 / shape.S);
      }
    }
  }
}

// Lists that do not fit for a chunk or for a tap, heavy bins.
TYPED_TEST(Dgrad, Crowds) {
  const Sizes sizes{1, 20, 12, 12, 40};
  for (const float height : {3.f, 1.f, .2f}) {
    Convolution conv(sizes, kBits<TypeParam>, 0.f, 7);
    crowd(conv, height);
    for (const int tile : {0, 3}) {
      GemmRun run;
      run.tile = tile;
      run.split_k = 2;
      const DgradResult light = this->check(conv, run, /*heavy=*/1 << 20, "lists without end");
      EXPECT_GT(light.irregular_tiles, 0);
      EXPECT_EQ(light.heavy_bins, 0);
      const DgradResult heavy = this->check(conv, run, /*heavy=*/4, "heavy bins");
      EXPECT_GT(heavy.heavy_bins, 0);
    }
  }
}

// A cluster walks the irregular tiles.
TYPED_TEST(Dgrad, CrowdsInTurn) {
  Convolution conv(Sizes{1, 72, 12, 20, 40}, kBits<TypeParam>, 0.f, 7);
  crowd(conv, 6.f);
  GemmRun run;
  run.multiprocessors = 1;
  const DgradResult result = this->check(conv, run, dcn::kHeavyBin, "tiles in turn");
  EXPECT_GT(result.irregular_tiles, 1);
}

// An infinity in a crowd, of light bins and of heavy ones.
TYPED_TEST(Dgrad, NoNumberInACrowd) {
  Convolution conv(Sizes{1, 20, 12, 12, 40}, kBits<TypeParam>, 0.f, 7);
  crowd(conv, 3.f);
  conv.grad[1000] = std::numeric_limits<float>::infinity();
  conv.mask[80] = std::numeric_limits<float>::quiet_NaN();
  for (const int heavy : {4, 1 << 20}) this->check(conv, GemmRun{}, heavy, "infinity");
}

// Crowded taps of one chunk, others in the next.
TYPED_TEST(Dgrad, CrowdsOfOneChunk) {
  Convolution conv(Sizes{1, 20, 12, 12, 40, 5, 3, 1, 1, 1, 2}, kBits<TypeParam>, 1.f, 7);
  crowd(conv, .2f);
  const DgradResult result = this->check(conv, GemmRun{}, dcn::kHeavyBin, "crowd");
  EXPECT_GT(result.irregular_tiles, 0);
}

// However many samples touch a pixel: of the value that the tensor cores are given, and of the
// result; where samples are multiplied in 16 bits, of both factors of a weight and of their product
// before.
TYPED_TEST(Dgrad, SumsOfCrowdsHaveFewRoundings) {
  if (kBits<TypeParam> > 11) GTEST_SKIP() << "in 16 bits";
  Convolution conv(Sizes{1, 20, 12, 12, 40}, kBits<TypeParam>, 0.f, 7);
  const std::vector<double> truth = [&] {
    crowd(conv, .2f);
    return conv.grad_input();
  }();
  for (const int heavy : {1 << 20, 4}) {
    const DgradResult result = run_dgrad<TypeParam>(conv, GemmRun{}, heavy);
    double error = 0, norm = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
      error += (result.grad_input[i] - truth[i]) * (result.grad_input[i] - truth[i]);
      norm += truth[i] * truth[i];
    }
    const double rounding = std::ldexp(1., -kBits<TypeParam>) / std::sqrt(3.);  // at most, RMS
    EXPECT_LT(std::sqrt(error / norm), std::sqrt(heavy == 4 ? 2. : 5.) * rounding) << heavy;
  }
}

TYPED_TEST(Dgrad, NoNumberStaysWhereItBelongs) {
  Convolution conv(Sizes{1, 64, 9, 9, 64}, kBits<TypeParam>, 2.f, 1);
  conv.grad[1000] = std::numeric_limits<float>::infinity();
  conv.offset[50] = std::numeric_limits<float>::quiet_NaN();
  conv.mask[80] = std::numeric_limits<float>::quiet_NaN();
  const DgradResult result = this->check(conv, GemmRun{}, dcn::kHeavyBin, "infinity");
  EXPECT_GT(result.irregular_tiles, 0);
}

TYPED_TEST(Dgrad, MergedGroups) {
  for (int tile = 0; tile < dcn::kDgradTileCount; ++tile) {
    uint32_t number = 0;
    for (const MergedSizes& each : kMergedSizes) {
      ++number;
      GemmRun run;
      run.tile = tile;
      run.split_k = 1 + static_cast<int>(number + tile) % dcn::kMostParts;
      run.merged = each.merged;
      run.nchw = number % 2 == 0;
      const dcn::ConvShape merged = dcn::merged(shape_of(each.sizes), each.merged);
      if (!dgrad_fits(merged, TypeParam::kKind, tile, run.split_k)) continue;
      seed(number);
      const Convolution conv(each.sizes, kBits<TypeParam>, /*spread=*/1.f, number);
      const DgradResult result = this->check(conv, run, dcn::kHeavyBin, "merged");
      EXPECT_EQ(result.irregular_tiles, 0);
    }
  }
}

// Of grad and of the offset.
TYPED_TEST(Dgrad, NoNumberStaysInItsGroup) {
  uint32_t number = 0;
  for (const MergedSizes& each : kMergedSizes) {
    ++number;
    GemmRun run;
    run.merged = each.merged;
    run.nchw = number % 2 == 1;
    Convolution conv(each.sizes, kBits<TypeParam>, /*spread=*/1.f, number);
    const int outputs = conv.shape.output_pixels_per_image(), K = each.sizes.K;
    conv.grad[2] = std::numeric_limits<float>::infinity();
    conv.grad[(outputs / 2) * K + 5] = -std::numeric_limits<float>::infinity();
    conv.grad[(outputs / 3) * K + K - 1] = std::numeric_limits<float>::quiet_NaN();
    conv.offset[outputs + outputs / 4] = std::numeric_limits<float>::quiet_NaN();
    const DgradResult result = this->check(conv, run, dcn::kHeavyBin, "no number in a group");
    EXPECT_GT(result.irregular_tiles, 0);
    const std::vector<double> wanted = conv.grad_input();
    const auto finite = std::count_if(wanted.begin(), wanted.end(),
                                      [](double value) { return std::isfinite(value); });
    EXPECT_GT(finite, static_cast<int64_t>(wanted.size()) / 4) << number;
    EXPECT_LT(finite, static_cast<int64_t>(wanted.size())) << number;
  }
}

// Of light bins and of heavy ones.
TYPED_TEST(Dgrad, NoNumberInACrowdStaysInItsGroup) {
  Convolution conv(Sizes{1, 40, 12, 12, 48, 3, 3, 8}, kBits<TypeParam>, 0.f, 7);
  crowd(conv, 3.f);
  conv.grad[1000] = std::numeric_limits<float>::infinity();
  conv.mask[80] = std::numeric_limits<float>::quiet_NaN();
  GemmRun run;
  run.merged = 8;
  for (const int heavy : {4, 1 << 20}) {
    const DgradResult result = this->check(conv, run, heavy, heavy == 4 ? "heavy" : "light");
    EXPECT_EQ(result.heavy_bins > 0, heavy == 4);
  }
}

// Nine blocks of 4 x 4 pixels: warps of the last tile that have none gather the last block too.
TYPED_TEST(Dgrad, TheLastBlockIsIrregular) {
  for (int tile = 0; tile < dcn::kDgradTileCount; ++tile) {
    for (uint32_t order = 1; order <= 6; ++order) {
      Convolution conv(Sizes{1, 20, 12, 12, 40}, kBits<TypeParam>, 0.f, 7);
      if (!dgrad_fits(conv.shape, TypeParam::kKind, tile, 1)) continue;
      conv.grad[(11 * 12 + 11) * 40 + 3] = std::numeric_limits<float>::infinity();
      GemmRun run;
      run.tile = tile;
      run.multiprocessors = 1;
      seed(order);
      const DgradResult result = this->check(conv, run, dcn::kHeavyBin, "infinity in the corner");
      EXPECT_GT(result.irregular_tiles, 0);
    }
  }
}

}  // namespace
}  // namespace emulation
