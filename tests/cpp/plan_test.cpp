#include "plan.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace dcn {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr Algorithm kAlgorithms[] = {Algorithm::kCpu, Algorithm::kIm2colGemm, Algorithm::kFused};
constexpr Dtype kDtypes[] = {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16};

// A 3x3 layer with padding 1: the output is as large as the input.
ConvShape layer(int32_t N, int32_t C, int32_t H, int32_t W, int32_t K) {
  ConvShape shape;
  shape.N = N, shape.C = C, shape.H = H, shape.W = W, shape.K = K;
  shape.R = shape.S = 3;
  shape.pad_h = shape.pad_w = 1;
  shape.P = H, shape.Q = W;
  return shape;
}

PlanRequest request(const ConvShape& shape, const char* device = "h200") {
  PlanRequest request;
  request.shape = shape;
  request.dtype = Dtype::kF16;
  request.device = device_preset(device).value();
  return request;
}

TEST(Names, RoundTrip) {
  for (const Algorithm algorithm : kAlgorithms) {
    EXPECT_EQ(algorithm_named(name_of(algorithm)), algorithm);
  }
  EXPECT_FALSE(algorithm_named("winograd").has_value());
  EXPECT_FALSE(device_preset("abacus").has_value());
  for (const DeviceInfo& preset : device_presets()) {
    EXPECT_EQ(device_preset(preset.name)->multiprocessors, preset.multiprocessors);
  }
}

TEST(Names, SwitchesThrowOnUnknownValues) {
  EXPECT_THROW(name_of(static_cast<Algorithm>(99)), std::logic_error);
  EXPECT_THROW(name_of(static_cast<Dtype>(99)), std::logic_error);
  EXPECT_THROW(size_of(static_cast<Dtype>(99)), std::logic_error);
  EXPECT_THROW(why_not(static_cast<Algorithm>(99), PlanRequest{}), std::logic_error);
}

TEST(WhyNot, IsASentenceOrEmpty) {
  const ConvShape shape = layer(2, 64, 32, 32, 64);
  EXPECT_EQ(why_not(Algorithm::kIm2colGemm, request(shape)), "");
  EXPECT_EQ(why_not(Algorithm::kCpu, request(shape, "cpu")), "");
  EXPECT_NE(why_not(Algorithm::kCpu, request(shape)).find("the device is a GPU"),
            std::string::npos);
  EXPECT_NE(why_not(Algorithm::kIm2colGemm, request(shape, "cpu")).find("the device is the CPU"),
            std::string::npos);
}

TEST(WhyNotPacked, IsASentenceOrEmpty) {
  const ConvShape shape = layer(2, 64, 32, 32, 64);
  EXPECT_EQ(why_not_packed(request(shape)), "");
  for (const char* device : {"a100", "l20", "cpu"}) {
    EXPECT_NE(why_not_packed(request(shape, device)), "") << device;
  }
  PlanRequest f64 = request(shape);
  f64.dtype = Dtype::kF64;
  EXPECT_NE(why_not_packed(f64).find("f64"), std::string::npos);
  ConvShape depthwise = shape;
  depthwise.G = 64;
  EXPECT_EQ(why_not_packed(request(depthwise)), "");
  depthwise.K = 64 * 64;
  EXPECT_NE(why_not_packed(request(depthwise)).find("im2col_gemm"), std::string::npos);
}

// Channels and outputs of a group, groups, offset groups: groups that run as one, in 16 bits and
// in f32.
TEST(MergedGroups, FillASliceWhereThatSavesProducts) {
  constexpr int32_t kPinned[][6] = {
      {8, 8, 32, 1, 8, 4},     // ResNeXt's
      {1, 1, 128, 1, 64, 32},  // depthwise
      {1, 2, 128, 1, 32, 32},  // 64 outputs are one tile
      {64, 64, 3, 1, 1, 1},    // a slice each
      {40, 40, 4, 1, 1, 1},    // two are more than one
      {30, 30, 6, 1, 2, 1},    // not three, which six would divide into
      {8, 64, 32, 1, 1, 1},    // as many tiles of outputs either way
      {1, 64, 64, 1, 1, 1},    {10, 10, 32, 1, 4, 2},
      {15, 15, 4, 1, 4, 2},    {1, 1, 127, 1, 1, 1},  // prime
      {8, 8, 32, 2, 8, 4},                            // whole merged groups share their offsets
      {8, 8, 32, 8, 8, 4},  // narrow in 16 bits: a step takes longer, but there are half as many
      {256, 256, 1, 16, 1, 1},
  };
  for (const auto& [c, k, G, D, in_16_bits, in_f32] : kPinned) {
    ConvShape shape = layer(2, c * G, 32, 32, k * G);
    shape.G = G, shape.D = D;
    for (const FusedMath math : {FusedMath::kF16, FusedMath::kBF16}) {
      EXPECT_EQ(merged_groups(shape, math, 90), in_16_bits) << c << " x " << G << ", D " << D;
    }
    for (const FusedMath math : {FusedMath::kTf32, FusedMath::k3xTf32}) {
      EXPECT_EQ(merged_groups(shape, math, 90), in_f32) << c << " x " << G << ", D " << D;
    }
    EXPECT_EQ(merged_groups(shape, FusedMath::kF16, 80), 1);
    PlanRequest call = request(shape);
    call.forced = ForcedPlan{Algorithm::kFused};
    EXPECT_EQ(make_plan(call).fused.merged, in_16_bits);
    const auto sizes = packed_sizes(shape, FusedMath::kF16);
    EXPECT_EQ(make_plan(call).fused.packed_bytes, sizes[0] * sizes[1] * sizes[2] * 2);
  }
}

TEST(MergedGroups, RunFusedWhereTheyFillEnough) {
  ConvShape shape = layer(4, 256, 64, 64, 256);
  for (const int32_t G : {16, 32, 64, 256}) {
    shape.G = G;
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      PlanRequest call = request(shape);
      call.dtype = dtype;
      EXPECT_EQ(make_plan(call).algorithm, Algorithm::kFused) << G;
      call.pass = Pass::kBackward;
      EXPECT_EQ(make_plan(call).algorithm, Algorithm::kFused) << G;
    }
    PlanRequest other = request(shape, "a100");
    EXPECT_EQ(make_plan(other).fused.merged, 1);
  }
}

TEST(Packed, OneOrderServesEveryTileOfSm90) {
  PlanRequest call = request(layer(2, 64, 32, 32, 200));
  const auto sizes = packed_sizes(call.shape, FusedMath::kF16);
  EXPECT_EQ(sizes[0], 4 * 9);  // tiles of 64 channels, and their steps
  EXPECT_EQ(sizes[1], 64);
  EXPECT_EQ(sizes[2], 64);
  EXPECT_EQ(packed_sizes(call.shape, FusedMath::k3xTf32)[1], 2 * 64);
  int served = 0;
  for (int tile = 0; tile < 16; ++tile) {
    call.forced = ForcedPlan{Algorithm::kFused, 0, 0, tile, 1};
    try {
      const FusedPlan plan = make_plan(call).fused;
      if (!takes_packed_weight(plan)) continue;
      EXPECT_EQ(plan.packed_bytes, sizes[0] * sizes[1] * sizes[2] * 2) << tile;
      ++served;
    } catch (const std::invalid_argument&) {  // no such tile
    }
  }
  EXPECT_GT(served, 3);
}

TEST(Packed, LargeWeightsOf3xTf32InOnePart) {
  const auto elements = [](const ConvShape& shape, FusedMath math) {
    const auto sizes = packed_sizes(shape, math);
    return sizes[0] * sizes[1] * sizes[2];
  };
  // 16 MiB in two parts, and a slice more.
  const ConvShape most = layer(1, 512, 16, 16, 448), more = layer(1, 544, 16, 16, 448);
  EXPECT_EQ(elements(most, FusedMath::k3xTf32), 2 * elements(most, FusedMath::kTf32));
  EXPECT_EQ(elements(more, FusedMath::k3xTf32), elements(more, FusedMath::kTf32));
  EXPECT_NE(packed_sizes(more, FusedMath::k3xTf32), packed_sizes(more, FusedMath::kTf32));
  EXPECT_EQ(plan_fused_forward(more, FusedMath::k3xTf32, {90, 132}, -1, 0).packed_bytes,
            4 * elements(more, FusedMath::k3xTf32));
  // mma.sync has no such way.
  EXPECT_EQ(plan_fused_forward(more, FusedMath::k3xTf32, {80, 108}, -1, 0).packed_bytes,
            8 * elements(more, FusedMath::k3xTf32));
}

TEST(WhyNot, AtomicsOfFloatsAreNotDeterministic) {
  PlanRequest backward = request(layer(2, 64, 32, 32, 64));
  backward.pass = Pass::kBackward;
  backward.shape.D = 8;
  EXPECT_EQ(why_not(Algorithm::kFused, backward), "");
  backward.deterministic = true;
  EXPECT_NE(why_not(Algorithm::kFused, backward).find("atomics"), std::string::npos);
  EXPECT_EQ(why_not(Algorithm::kIm2colGemm, backward), "");
  backward.output_mask[0] = false;
  EXPECT_EQ(why_not(Algorithm::kFused, backward), "");
}

// Forced or not, whatever the shape, the device and the gradients that are wanted.
TEST(MakePlan, DeterministicModeAlwaysHasAPlan) {
  const std::optional<ForcedPlan> demands[] = {std::nullopt, ForcedPlan{Algorithm::kIm2colGemm},
                                               ForcedPlan{Algorithm::kFused}};
  for (const char* device : {"h200", "a100", "l20", "rtx4090"}) {
    for (const Dtype dtype : kDtypes) {
      for (const int D : {1, 2, 8, 64}) {
        for (const int G : {1, 2, 64}) {
          for (const auto& forced : demands) {
            for (const bool input : {false, true}) {
              PlanRequest asked = request(layer(2, 64, 32, 32, 64), device);
              asked.pass = Pass::kBackward;
              asked.dtype = dtype;
              asked.shape.D = D;
              asked.shape.G = G;
              asked.forced = forced;
              asked.deterministic = true;
              asked.output_mask[0] = input;
              const Plan plan = make_plan(asked);
              EXPECT_TRUE(plan.deterministic) << device << ' ' << D << ' ' << G;
              EXPECT_EQ(plan.fixed_point, input && plan.algorithm == Algorithm::kIm2colGemm);
            }
          }
        }
      }
    }
  }
}

TEST(MakePlan, FollowsTheDevice) {
  const ConvShape shape = layer(2, 64, 32, 32, 64);
  EXPECT_EQ(make_plan(request(shape, "cpu")).algorithm, Algorithm::kCpu);
  for (const char* gpu : {"h200", "a100", "l20", "rtx4090"}) {
    EXPECT_NE(make_plan(request(shape, gpu)).algorithm, Algorithm::kCpu) << gpu;
  }
}

TEST(MakePlan, RefusesWhatIsForcedAndCannotServe) {
  PlanRequest wrong = request(layer(2, 64, 32, 32, 64));
  wrong.forced = ForcedPlan{Algorithm::kCpu};
  EXPECT_THROW(make_plan(wrong), std::invalid_argument);
  wrong = request(layer(2, 64, 32, 32, 64), "cpu");
  wrong.forced = ForcedPlan{Algorithm::kIm2colGemm};
  EXPECT_THROW(make_plan(wrong), std::invalid_argument);
}

// What any plan of im2col_gemm promises, over shapes, dtypes, devices and demands.
void expect_sound(const PlanRequest& asked) {
  const Plan plan = make_plan(asked);
  const int64_t total = std::max<int64_t>(asked.shape.output_pixels(), 1);
  ASSERT_EQ(plan.algorithm, Algorithm::kIm2colGemm);
  EXPECT_GE(plan.chunk_pixels, 1);
  EXPECT_GE(plan.chunks * plan.chunk_pixels, total);
  EXPECT_LT((plan.chunks - 1) * plan.chunk_pixels, total);
  EXPECT_GE(plan.lanes, 1);
  EXPECT_LE(plan.lanes, plan.chunks);
  EXPECT_EQ(plan.columns_bytes,
            plan.lanes * plan.chunk_pixels * asked.shape.column_length() * size_of(asked.dtype));
  EXPECT_GE(plan.workspace_bytes, plan.columns_bytes);
}

TEST(Im2colGemm, ChunksCoverTheOutputOnce) {
  const ConvShape shapes[] = {layer(2, 64, 32, 32, 64),      layer(1, 1, 1, 1, 1),
                              layer(0, 64, 32, 32, 64),      layer(1, 4096, 7, 7, 64),
                              layer(7, 10, 131, 17, 3),      layer(16, 64, 128, 128, 64),
                              layer(70000, 64, 128, 128, 64)};
  for (const ConvShape& shape : shapes) {
    for (const char* device : {"h200", "a100", "l20", "rtx4090"}) {
      for (const Dtype dtype : kDtypes) {
        for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
          for (const int64_t step : {0, 1, 3, 1000}) {
            SCOPED_TRACE(::testing::Message()
                         << "N " << shape.N << " C " << shape.C << " H " << shape.H << ' ' << device
                         << ' ' << name_of(dtype) << ' ' << name_of(pass) << " step " << step);
            PlanRequest asked = request(shape, device);
            asked.dtype = dtype;
            asked.pass = pass;
            asked.im2col_step = step;
            asked.forced = ForcedPlan{Algorithm::kIm2colGemm};
            expect_sound(asked);
          }
        }
      }
    }
  }
}

TEST(Im2colGemm, WorkspaceIsBounded) {
  for (const char* device : {"h200", "a100", "l20", "rtx4090"}) {
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
      for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
        PlanRequest asked = request(layer(16, 256, 128, 128, 256), device);
        asked.dtype = dtype;
        asked.pass = pass;
        EXPECT_LE(make_plan(asked).workspace_bytes, 64 * kMiB) << device << name_of(pass);
      }
    }
  }
}

TEST(Im2colGemm, StepsAreImages) {
  PlanRequest asked = request(layer(7, 64, 32, 40, 64));
  asked.forced = ForcedPlan{Algorithm::kIm2colGemm};
  for (const int step : {1, 2, 3, 7}) {
    asked.im2col_step = step;
    const Plan plan = make_plan(asked);
    EXPECT_EQ(plan.chunk_pixels, int64_t{step} * 32 * 40);
    EXPECT_EQ(plan.chunks, (7 + step - 1) / step);
  }
  asked.im2col_step = 100;  // more than there are
  EXPECT_EQ(make_plan(asked).chunks, 1);
  EXPECT_EQ(make_plan(asked).lanes, 1);
}

TEST(Im2colGemm, ForcedNumbersAreTaken) {
  PlanRequest asked = request(layer(7, 64, 32, 40, 64));
  asked.forced = ForcedPlan{Algorithm::kIm2colGemm, /*lanes=*/3, /*chunk_pixels=*/100};
  const Plan plan = make_plan(asked);
  EXPECT_EQ(plan.lanes, 3);
  EXPECT_EQ(plan.chunk_pixels, 100);
  EXPECT_EQ(plan.chunks, (7 * 32 * 40 + 99) / 100);
  asked.forced->chunk_pixels = int64_t{1} << 40;
  EXPECT_EQ(make_plan(asked).chunks, 1);
  EXPECT_EQ(make_plan(asked).lanes, 1);
}

TEST(Im2colGemm, BackwardPaysForWhatIsAsked) {
  PlanRequest asked = request(layer(2, 64, 32, 32, 64));
  asked.pass = Pass::kBackward;
  asked.forced = ForcedPlan{Algorithm::kIm2colGemm};
  asked.output_mask = {false, false, true, true, true};
  const Plan sampling = make_plan(asked);
  EXPECT_EQ(sampling.accumulator_bytes, 0);
  EXPECT_TRUE(sampling.deterministic);
  asked.output_mask[1] = true;
  EXPECT_GT(make_plan(asked).workspace_bytes, sampling.workspace_bytes);
  asked.output_mask[0] = true;
  EXPECT_EQ(make_plan(asked).accumulator_bytes, int64_t{2} * 64 * 32 * 32 * 4);
  EXPECT_FALSE(make_plan(asked).deterministic);
  asked.deterministic = true;
  EXPECT_EQ(make_plan(asked).accumulator_bytes, int64_t{2} * 64 * 32 * 32 * 8);
  EXPECT_TRUE(make_plan(asked).deterministic);
  asked.dtype = Dtype::kF64;
  EXPECT_EQ(make_plan(asked).accumulator_bytes, int64_t{2} * 64 * 32 * 32 * 16);
}

// Each lane has a sum of the weight gradient, and several lanes a total beside them.
TEST(Im2colGemm, TheTotalOfSeveralLanesIsCounted) {
  PlanRequest asked = request(layer(2, 64, 32, 32, 48));
  asked.pass = Pass::kBackward;
  asked.output_mask[0] = false;
  for (const Dtype dtype : kDtypes) {
    asked.dtype = dtype;
    const int64_t sum = int64_t{48} * 64 * 9 * (dtype == Dtype::kF64 ? 8 : 4);
    for (const int lanes : {1, 2, 3}) {
      asked.forced = ForcedPlan{Algorithm::kIm2colGemm, lanes, /*chunk_pixels=*/128};
      const Plan plan = make_plan(asked);
      ASSERT_EQ(plan.lanes, lanes);
      EXPECT_EQ(plan.workspace_bytes - plan.columns_bytes - lanes * kGemmWorkspaceBytes,
                (lanes == 1 ? 1 : lanes + 1) * sum)
          << name_of(dtype) << ", " << lanes << " lanes";
    }
  }
}

TEST(Plan, PrintsItself) {
  PlanRequest asked = request(layer(7, 64, 32, 40, 64));
  asked.forced = ForcedPlan{Algorithm::kIm2colGemm, 2, 1000};
  EXPECT_EQ(make_plan(asked).to_string(),
            "im2col_gemm: 9 chunks of 1000 pixels on 2 lanes, workspace 10 MiB");
  EXPECT_EQ(make_plan(request(layer(1, 1, 1, 1, 1), "cpu")).to_string(), "cpu");
  EXPECT_EQ(2 * 1000 * 9 * 64 * 2 + 2 * kGemmWorkspaceBytes, make_plan(asked).workspace_bytes);
  EXPECT_EQ((make_plan(asked).workspace_bytes + kMiB / 2) / kMiB, 10);
}

}  // namespace
}  // namespace dcn
