// The offset and mask gradients of compute capability 9.0, executed by the emulator.
#include <gtest/gtest.h>

#include "ograd_run.h"

namespace emulation {
namespace {

constexpr Sizes kSizes[] = {
    {1, 64, 9, 9, 64, 3, 3},
    {2, 128, 5, 11, 40, 3, 3, 1, 2},
    {1, 20, 9, 7, 136, 3, 3, 1, 1, 2, 1},
    {1, 128, 6, 9, 72, 3, 2, 2, 1, 1, 1, 1, /*mask=*/false},
    {3, 3, 5, 1, 5, 5, 1, 1, 1, 1, 2},
    {1, 64, 5, 6, 160, 3, 3},
    {1, 64, 4, 5, 296, 3, 3},
};

template <class Math>
class Ograd : public testing::Test {
 protected:
  // Whether the tile is compiled, and for this number of channels. `shape`: of the run.
  static bool fits(const dcn::OgradTile& tile, const dcn::ConvShape& shape) {
    return tile.step_time(Math::kKind) > 0 && (!dcn::ograd_ragged(shape) || tile.ragged);
  }
  static void check(const Convolution& conv, const dcn::OgradChoice& choice, int merged,
                    uint32_t number) {
    const OgradResult result = run_ograd<Math>(conv, choice, /*multiprocessors=*/8, merged);
    EXPECT_LT(error_of(result.offset, conv.grad_offset()), kTolerance<Math>)
        << "tile " << choice.tile << ", sizes " << number;
    if (!conv.has_mask) return;
    EXPECT_LT(error_of(result.mask, conv.grad_mask()), kTolerance<Math>)
        << "tile " << choice.tile << ", sizes " << number;
  }
};
TYPED_TEST_SUITE(Ograd, Maths);

TYPED_TEST(Ograd, EveryTile) {
  for (int tile = 0; tile < dcn::kOgradTileCount; ++tile) {
    uint32_t number = 0;
    for (const Sizes& sizes : kSizes) {
      ++number;
      const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/2.f, number);
      if (!this->fits(dcn::kOgradTiles[tile], conv.shape)) continue;
      seed(number);
      const dcn::OgradChoice choice{tile, 1 + static_cast<int>(number + tile) % 3};
      this->check(conv, choice, /*merged=*/1, number);
    }
  }
}

TYPED_TEST(Ograd, MergedGroups) {
  for (int tile = 0; tile < dcn::kOgradTileCount; ++tile) {
    uint32_t number = 0;
    for (const MergedSizes& each : kMergedSizes) {
      ++number;
      const Convolution conv(each.sizes, kBits<TypeParam>, /*spread=*/2.f, number);
      if (!this->fits(dcn::kOgradTiles[tile], dcn::merged(conv.shape, each.merged))) continue;
      seed(number);
      const dcn::OgradChoice choice{tile, 2 + static_cast<int>(number + tile) % 2};
      this->check(conv, choice, each.merged, number);
    }
  }
}

// By few large CTAs, of several tiles each, as by many small ones.
TYPED_TEST(Ograd, WeightPackedByFewCtas) {
  for (const Sizes& sizes : {Sizes{1, 64, 4, 5, 96, 3, 3}, Sizes{1, 160, 4, 5, 72, 3, 2, 2}}) {
    const Convolution conv(sizes, kBits<TypeParam>, /*spread=*/1.f, 1);
    const dcn::ConvShape back = dcn::transposed(conv.shape);
    const int64_t bytes =
        dcn::packed_bytes(back, dcn::fused_layout(back, sizeof(typename TypeParam::Element)),
                          dcn::weight_parts(TypeParam::kKind), dcn::kPieceChannels);
    const auto pack = [&](int32_t most_ctas) {
      auto packed = packed_weight<TypeParam>(conv, /*transposed=*/true, dcn::kPieceChannels,
                                             /*channels_last=*/true, /*merged=*/1, /*whole=*/false,
                                             most_ctas);
      return std::vector<uint8_t>(packed.data(), packed.data() + bytes);
    };
    const std::vector<uint8_t> many = pack(0);
    for (const int32_t ctas : {1, 3, 100}) EXPECT_EQ(pack(ctas), many) << ctas;
  }
}

}  // namespace
}  // namespace emulation
