// The offset, mask and weight gradients of compute capability 9.0 in one kernel, executed by the
// emulator.
#include <gtest/gtest.h>

#include <limits>

#include "owgrad_run.h"

namespace emulation {
namespace {

constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3},
    {2, 128, 7, 19, 40, 3, 3, 1, 2},
    {1, 128, 8, 7, 136, 3, 3, 2, 1, 2, 1},
    {1, 128, 6, 9, 264, 3, 2, 1, 1, 1, 1, 1, /*mask=*/false},
    {1, 128, 8, 7, 256, 3, 3, 2, 2},
    {3, 64, 5, 4, 72, 5, 1, 1, 1, 1, 2},
    {1, 64, 7, 7, 64, 7, 7, 1, 1, 1, 3},
};

template <class Math>
class Owgrad : public testing::Test {};
using Narrow = testing::Types<dcn::MathF16, dcn::MathBF16>;
TYPED_TEST_SUITE(Owgrad, Narrow);

template <class Math>
void expect_gradients(const Convolution& conv, const OwgradResult& result) {
  EXPECT_LT(error_of(result.weight, conv.grad_weight()), kTolerance<Math>);
  EXPECT_LT(error_of(result.offset, conv.grad_offset()), kTolerance<Math>);
  if (!conv.has_mask) return;
  EXPECT_LT(error_of(result.mask, conv.grad_mask()), kTolerance<Math>);
}

TYPED_TEST(Owgrad, EveryTile) {
  for (int tile = 0; tile < dcn::kWgradTileCount; ++tile) {
    if (dcn::step_ns(dcn::kWgradTiles[tile], TypeParam::kKind) == 0) continue;
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, ++number);
      ASSERT_EQ(dcn::why_not_owgrad(conv.shape, TypeParam::kKind), "");
      SCOPED_TRACE("tile " + std::to_string(tile) + ", sizes " + std::to_string(number));
      seed(number);
      const int ctas = 1 + static_cast<int>(number) * 5 % 12;
      expect_gradients<TypeParam>(conv, run_owgrad<TypeParam>(conv, tile, ctas));
    }
  }
}

TYPED_TEST(Owgrad, MergedGroups) {
  uint32_t number = 0;
  for (const MergedSizes& each : kMergedSizes) {
    const Convolution conv(each.sizes, kBits<TypeParam>, /*spread=*/2.f, ++number);
    const dcn::ConvShape merged = dcn::merged(conv.shape, each.merged);
    if (!dcn::why_not_owgrad(merged, TypeParam::kKind).empty()) continue;
    SCOPED_TRACE("sizes " + std::to_string(number));
    expect_gradients<TypeParam>(conv, run_owgrad<TypeParam>(conv, -1, 0, each.merged));
  }
}

TYPED_TEST(Owgrad, NoNumberStaysWhereItBelongs) {
  Convolution conv(Sizes{1, 64, 9, 9, 64}, kBits<TypeParam>, 2.f, 1);
  conv.image[1000] = std::numeric_limits<float>::infinity();
  conv.grad[1000] = std::numeric_limits<float>::quiet_NaN();
  expect_gradients<TypeParam>(conv, run_owgrad<TypeParam>(conv, -1, 0));
}

}  // namespace
}  // namespace emulation
