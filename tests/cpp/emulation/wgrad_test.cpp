// The weight gradient of compute capability 9.0, executed by the emulator.
#include <gtest/gtest.h>

#include <limits>

#include "wgrad_run.h"

namespace emulation {
namespace {

constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3},
    {2, 20, 7, 19, 40, 3, 3},
    {1, 72, 8, 7, 136, 3, 3, 1, 1, 2, 1},
    {1, 128, 6, 9, 72, 3, 3, 2, 2},
    {1, 128, 6, 9, 264, 3, 2, 1, 2, 1, 1, 1, /*mask=*/false},
    {3, 3, 5, 4, 5, 5, 1, 1, 1, 1, 2},
    {1, 8, 7, 7, 64, 7, 7, 1, 1, 1, 3},
    {1, 64, 9, 9, 72, 3, 3, 1, 8},
};

template <class Math>
class Wgrad : public testing::Test {};
TYPED_TEST_SUITE(Wgrad, Maths);

TYPED_TEST(Wgrad, EveryTile) {
  for (int tile = 0; tile < dcn::kWgradTileCount; ++tile) {
    if (dcn::step_ns(dcn::kWgradTiles[tile], TypeParam::kKind) == 0) continue;
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, ++number);
      if (!dcn::why_not_wgrad(conv.shape, TypeParam::kKind).empty()) continue;
      seed(number);
      const int ctas = 1 + static_cast<int>(number) * 5 % 12;
      EXPECT_LT(error_of(run_wgrad<TypeParam>(conv, tile, ctas), conv.grad_weight()),
                kTolerance<TypeParam>)
          << "tile " << tile << ", sizes " << number;
    }
  }
}

TYPED_TEST(Wgrad, MergedGroups) {
  uint32_t number = 0;
  for (const MergedSizes& each : kMergedSizes) {
    Convolution conv(each.sizes, kBits<TypeParam>, /*spread=*/2.f, ++number);
    for (const bool numbers : {true, false}) {
      if (!numbers) {
        conv.image[5] = std::numeric_limits<float>::infinity();
        conv.grad[9] = std::numeric_limits<float>::quiet_NaN();
      }
      for (const int ctas : {3, 8}) {  // one layout of the weight, and the other
        EXPECT_LT(error_of(run_wgrad<TypeParam>(conv, -1, ctas, each.merged), conv.grad_weight()),
                  kTolerance<TypeParam>)
            << "sizes " << number << ", " << ctas << " CTAs";
      }
    }
  }
}

TYPED_TEST(Wgrad, NoNumberStaysWhereItBelongs) {
  Convolution conv(Sizes{1, 64, 9, 9, 64}, kBits<TypeParam>, 2.f, 1);
  conv.image[1000] = std::numeric_limits<float>::infinity();
  conv.grad[1000] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_LT(error_of(run_wgrad<TypeParam>(conv, -1, 0), conv.grad_weight()), kTolerance<TypeParam>);
}

}  // namespace
}  // namespace emulation
