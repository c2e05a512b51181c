#include "fused_backward_plan.h"

#include <gtest/gtest.h>

#include "dgrad_tiles.h"
#include "landing_plan.h"
#include "scatter_tiles.h"

namespace dcn {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr FusedMath kMaths[] = {FusedMath::kF16, FusedMath::kBF16, FusedMath::kTf32,
                                FusedMath::k3xTf32};
constexpr int kMultiprocessors = 132;
constexpr FusedDevice kDevice{90, kMultiprocessors};
constexpr std::array<bool, 5> kAll{true, true, true, true, true};

ConvShape layer(int32_t N, int32_t C, int32_t H, int32_t W, int32_t K) {
  ConvShape shape;
  shape.N = N, shape.C = C, shape.H = H, shape.W = W, shape.K = K;
  shape.R = shape.S = 3;
  shape.pad_h = shape.pad_w = 1;
  shape.P = H, shape.Q = W;
  return shape;
}

const ConvShape kLayers[] = {
    layer(2, 64, 32, 32, 64),   layer(4, 128, 64, 64, 128), layer(2, 256, 128, 128, 256),
    layer(6, 512, 19, 34, 256), layer(8, 64, 64, 64, 64),   layer(2, 128, 100, 168, 128),
    layer(2, 256, 50, 84, 256), layer(2, 512, 25, 42, 512), layer(16, 64, 128, 128, 64),
};

TEST(Transposed, SwapsInputAndOutput) {
  ConvShape shape = layer(2, 8, 30, 40, 12);
  shape.G = 2, shape.D = 4, shape.stride_h = 2;
  shape.P = 15;
  const ConvShape back = transposed(shape);
  EXPECT_EQ(back.C, 12);
  EXPECT_EQ(back.K, 8);
  EXPECT_EQ(back.H, 15);
  EXPECT_EQ(back.W, 40);
  EXPECT_EQ(back.P, 30);
  EXPECT_EQ(back.Q, 40);
  EXPECT_EQ(back.G, 2);
  EXPECT_EQ(back.D, 1);
  EXPECT_EQ(back.taps(), shape.taps());
}

// dgrad takes half of the device: 68 tiles.
TEST(Plan, OwgradMakesRoomForDgrad) {
  const ConvShape shape = layer(6, 512, 19, 34, 256);
  const WgradPlan plan = plan_fused_backward(shape, FusedMath::kF16, kMultiprocessors, kAll).wgrad;
  const WgradWork work = wgrad_work(shape, fused_layout(shape, 2), kWgradTiles[plan.tile]);
  ASSERT_GT(plan.early_ctas, 0);
  ASSERT_LT(plan.early_ctas, plan.ctas);
  const int64_t late_ctas = plan.ctas - plan.early_ctas;
  const int64_t late_steps = work.all_steps() - plan.early_steps;
  EXPECT_GE(late_steps, late_ctas);  // each has one
  EXPECT_GT(plan.early_steps / plan.early_ctas, late_steps / late_ctas);
  const ConvShape large = layer(2, 256, 128, 128, 256);
  EXPECT_EQ(plan_fused_backward(large, FusedMath::kF16, kMultiprocessors, kAll).wgrad.early_ctas,
            0);
}

// Each tile has as many CTAs, which then have no other tile.
TEST(Plan, StreamedTilesAreCutAlike) {
  for (const ConvShape& shape :
       {layer(2, 256, 128, 128, 256), layer(16, 64, 128, 128, 64), layer(8, 64, 64, 64, 64)}) {
    const WgradPlan plan =
        plan_fused_backward(shape, FusedMath::kF16, kMultiprocessors, kAll).wgrad;
    const WgradWork work = wgrad_work(shape, fused_layout(shape, 2), kWgradTiles[plan.tile]);
    EXPECT_EQ(plan.ctas % work.tiles(), 0) << shape.C;
  }
}

TEST(Plan, EachLayerRunsWithin64MiB) {
  for (const ConvShape& shape : kLayers) {
    for (const FusedMath math : kMaths) {
      ASSERT_EQ(why_not_fused_backward(shape, math, kDevice, kAll), "");
      const FusedBackwardPlan plan = plan_fused_backward(shape, math, kMultiprocessors, kAll);
      EXPECT_TRUE(plan.ograd);
      EXPECT_GE(plan.wgrad.tile, 0);
      EXPECT_GE(plan.dgrad.tile, 0);
      EXPECT_GE(plan.dgrad.images, 1);
      EXPECT_LE(plan.dgrad.images, shape.N);
      EXPECT_LE(workspace_bytes(plan, shape), 64 * kMiB)
          << shape.C << " channels, " << name_of(math) << ", " << describe(plan);
    }
  }
}

TEST(Plan, MakesOnlyWhatIsWanted) {
  const ConvShape shape = kLayers[1];
  const auto plan = [&](std::array<bool, 5> mask) {
    return plan_fused_backward(shape, FusedMath::kBF16, kMultiprocessors, mask);
  };
  const FusedBackwardPlan input = plan({true, false, false, false, false});
  EXPECT_GE(input.dgrad.tile, 0);
  EXPECT_FALSE(input.ograd);
  EXPECT_LT(input.wgrad.tile, 0);
  EXPECT_EQ(input.wgrad.partial_bytes, 0);
  const FusedBackwardPlan weight = plan({false, true, false, false, false});
  EXPECT_LT(weight.dgrad.tile, 0);
  EXPECT_EQ(weight.packed_bytes, 0);
  EXPECT_EQ(workspace_bytes(weight, shape), weight.wgrad.partial_bytes);
  const FusedBackwardPlan mask = plan({false, false, false, true, false});
  EXPECT_TRUE(mask.ograd);
  EXPECT_GT(mask.packed_bytes, 0);
  EXPECT_EQ(workspace_bytes(mask, shape), mask.packed_bytes);
}

TEST(Plan, OneKernelMakesTheGradientsOfSamplesAndWeightIn16Bits) {
  const auto plan = [](const ConvShape& shape, FusedMath math, std::array<bool, 5> mask) {
    return plan_fused_backward(shape, math, kMultiprocessors, mask);
  };
  for (const ConvShape& shape : kLayers) {
    for (const FusedMath math : kMaths) {
      EXPECT_EQ(plan(shape, math, kAll).owgrad, element_bytes(math) == 2);
    }
  }
  // All channels of a sample in one CTA, or two parts of them.
  EXPECT_EQ(plan(kLayers[0], FusedMath::kF16, kAll).owgrad_part_bytes, 0);
  EXPECT_EQ(plan(kLayers[1], FusedMath::kF16, kAll).owgrad_part_bytes, 0);
  EXPECT_EQ(plan(kLayers[2], FusedMath::kF16, kAll).owgrad_part_bytes,
            2 * 27 * kLayers[2].output_pixels() * 4);
  const ConvShape& shape = kLayers[1];
  EXPECT_FALSE(plan(shape, FusedMath::kF16, {true, false, true, true, true}).owgrad);
  EXPECT_FALSE(plan(shape, FusedMath::kF16, {true, true, false, false, true}).owgrad);
  EXPECT_TRUE(plan(shape, FusedMath::kF16, {false, true, false, true, false}).owgrad);
  EXPECT_FALSE(plan(layer(2, 96, 32, 32, 64), FusedMath::kF16, kAll).owgrad);
}

TEST(Plan, ManyImagesAreWalkedInEvenChunks) {
  const ConvShape shape = layer(33, 64, 128, 128, 64);
  const DgradPlan plan = plan_fused_backward(shape, FusedMath::kF16, kMultiprocessors, kAll).dgrad;
  EXPECT_LT(plan.images, shape.N);
  const int64_t chunks = tiles_of(shape.N, plan.images);
  EXPECT_GT(shape.N, (chunks - 1) * plan.images);
  EXPECT_LE(chunks * plan.images - shape.N, chunks);
  EXPECT_LE(plan.landing_bytes, 64 * kMiB);
}

// Of 136, 138 and 80 tiles, which leave many multiprocessors without one in their last round, and
// of 128, which do not. Alone, more parts are quicker.
TEST(Plan, PartsOfF32LeaveRoomForOtherGradients) {
  const auto parts = [](const ConvShape& shape, FusedMath math, std::array<bool, 5> mask) {
    return plan_fused_backward(shape, math, kMultiprocessors, mask).dgrad.split_k;
  };
  constexpr std::array<bool, 5> kInput = {true, false, false, false, false};
  for (const int i : {3, 6, 7}) {
    EXPECT_EQ(parts(kLayers[i], FusedMath::k3xTf32, kAll), 2) << i;
    EXPECT_GT(parts(kLayers[i], FusedMath::k3xTf32, kInput), 2) << i;
  }
  EXPECT_EQ(parts(kLayers[1], FusedMath::k3xTf32, kAll), 1);
  EXPECT_EQ(parts(kLayers[0], FusedMath::k3xTf32, kAll), 3);  // fills no device
}

// As many as fill a tile's channels, in and out, and have one offset group.
TEST(Plan, SmallGroupsAreMerged) {
  ConvShape shape = layer(4, 256, 64, 64, 256);
  struct Merge {
    int32_t K, G, D;
    int in_16_bits, in_f32;
    bool worth;
  };
  for (const Merge& each : {Merge{256, 32, 1, 8, 8, true},
                            {256, 8, 1, 2, 1, true},
                            {256, 256, 1, 64, 64, true},
                            {512, 256, 1, 32, 32, true},
                            {256, 32, 8, 4, 4, true},
                            {256, 32, 32, 1, 1, false},
                            {256, 4, 1, 1, 1, true},
                            {256, 1, 1, 1, 1, true}}) {
    shape.K = each.K, shape.G = each.G, shape.D = each.D;
    for (const FusedMath math : kMaths) {
      const FusedBackwardPlan plan = plan_fused_backward(shape, math, kMultiprocessors, kAll);
      EXPECT_EQ(plan.merged, element_bytes(math) == 2 ? each.in_16_bits : each.in_f32)
          << each.G << " groups, " << describe(plan);
      EXPECT_EQ(worth_fused_backward(shape, math), each.worth) << describe(plan);
      EXPECT_EQ(worth_gather(shape, math), each.worth) << describe(plan);
      EXPECT_EQ(why_not_fused_backward(shape, math, kDevice, kAll), "");
      if (each.worth) EXPECT_LE(workspace_bytes(plan, shape), 64 * kMiB) << describe(plan);
    }
  }
  shape = layer(1, 256, 32, 32, 256);
  shape.G = 32;
  EXPECT_FALSE(worth_fused_backward(shape, FusedMath::kF16));  // a small call
  shape = layer(1, 32, 122, 122, 32);
  shape.G = 2;  // so is this one, but in f32 each group is worth it by itself
  EXPECT_FALSE(worth_fused_backward(shape, FusedMath::kF16));
  EXPECT_TRUE(worth_fused_backward(shape, FusedMath::k3xTf32));
  shape = layer(4, 17 * 5, 64, 64, 17 * 5);
  shape.G = 17;  // which no number divides
  EXPECT_EQ(merged_backward_groups(shape, FusedMath::kF16), 1);
}

TEST(WhyNot, OtherDevices) {
  EXPECT_NE(
      why_not_fused_backward(kLayers[0], FusedMath::kF16, {80, kMultiprocessors}, kAll).find("9.x"),
      std::string::npos);
}

TEST(Plan, NarrowOffsetGroupsAreScattered) {
  ConvShape shape = layer(1, 128, 180, 320, 64);
  shape.D = 16;
  for (const FusedMath math : kMaths) {
    ASSERT_EQ(why_not_fused_backward(shape, math, kDevice, kAll), "");
    const FusedBackwardPlan plan = plan_fused_backward(shape, math, kMultiprocessors, kAll);
    EXPECT_TRUE(plan.scatter.columns);
    EXPECT_EQ(plan.scatter.ctas, kMultiprocessors * scatter_resident(math));
    EXPECT_EQ(plan.scatter.sum_bytes, shape.input_pixels() * shape.C * 4);
    EXPECT_LT(plan.dgrad.tile, 0);
    EXPECT_FALSE(plan.ograd);
    EXPECT_LT(plan.wgrad.tile, 0);
    EXPECT_LE(workspace_bytes(plan, shape), 64 * kMiB) << describe(plan);
  }
  const auto plan = [&](std::array<bool, 5> mask) {
    return plan_fused_backward(shape, FusedMath::kF16, kMultiprocessors, mask).scatter;
  };
  const ScatterPlan weight = plan({false, true, false, false, false});
  EXPECT_FALSE(weight.columns);
  EXPECT_GT(weight.partial_bytes, 0);
  EXPECT_EQ(weight.packed_bytes + weight.sum_bytes, 0);
  const ScatterPlan offset = plan({false, false, true, false, false});
  EXPECT_TRUE(offset.columns);
  EXPECT_EQ(offset.transposed_bytes + offset.partial_bytes + offset.sum_bytes, 0);
  EXPECT_FALSE(plan({false, false, false, false, true}).chosen());
}

// However many images there are: the sums that CTAs leave count.
TEST(Plan, TheScatterRunsWithin64MiB) {
  for (const FusedMath math : kMaths) {
    for (const auto& mask : {kAll, std::array<bool, 5>{false, true, false, false, false}}) {
      int runs = 0;
      for (int32_t images = 1; images <= 64; ++images) {
        ConvShape shape = layer(images, 128, 64, 64, 64);
        shape.D = 16;
        if (!why_not_fused_backward(shape, math, kDevice, mask).empty()) continue;
        const FusedBackwardPlan plan = plan_fused_backward(shape, math, kMultiprocessors, mask);
        ASSERT_LE(workspace_bytes(plan, shape), 64 * kMiB) << images << ", " << describe(plan);
        ++runs;
      }
      EXPECT_GT(runs, 0);
      EXPECT_LT(runs, 64);
    }
  }
}

TEST(Plan, OnlySharedSamplesAreGathered) {
  ConvShape shape = kLayers[1];  // 128 channels
  for (const auto [D, G, scattered] : {std::array<int, 3>{1, 1, 0},
                                       {2, 1, 0},
                                       {4, 1, 1},
                                       {16, 1, 1},
                                       {2, 4, 0},
                                       {2, 2, 0},
                                       {4, 2, 1}}) {
    shape.D = D, shape.G = G;
    EXPECT_EQ(scatters(shape), scattered == 1) << D << " offset groups, " << G << " groups";
  }
  shape = layer(1, 140, 9, 9, 64);
  shape.D = 2;  // steps of 64 channels would have samples of both
  EXPECT_TRUE(scatters(shape));
}

TEST(WhyNot, WideSamplesAreGathered) {
  ConvShape wide = kLayers[1];
  wide.D = 2;
  EXPECT_EQ(why_not_fused_backward(wide, FusedMath::kF16, kDevice, kAll), "");
  // A tile's channels share their offsets.
  const DgradPlan plan = plan_fused_backward(wide, FusedMath::kF16, kMultiprocessors, kAll).dgrad;
  EXPECT_EQ(kDgradTiles[plan.tile].channels, 64);
}

}  // namespace
}  // namespace dcn
