#include "plan.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "column_sum.h"

namespace dcn {
namespace {

struct AlgorithmName {
  Algorithm algorithm;
  const char* name;
};
constexpr AlgorithmName kAlgorithmNames[] = {
    {Algorithm::kCpu, "cpu"},
    {Algorithm::kIm2colGemm, "im2col_gemm"},
    {Algorithm::kFused, "fused"},
};

constexpr int64_t kMiB = int64_t{1} << 20;

// im2col_gemm: how many output pixels share one columns slice, and on how many lanes the slices are
// worked.
//
// Large chunks win, although their columns pass through device memory: small ones keep the columns
// in the L2, but a GEMM of a few thousand rows leaves multiprocessors idle, which costs more
// (measured on an H200: 8 MiB of columns are 1.2 to 1.7 times slower than 56). So a call takes what
// the workspace allowance gives, columns, GEMM workspaces and partial sums together.
constexpr int64_t kWorkspaceAllowance = 64 * kMiB;
// GEMM tiles are up to 128 rows high; chunks in multiples of it waste no part of a tile.
constexpr int64_t kGemmTileRows = 128;
// Two chunks in flight let one lane's GEMM fill the tensor cores while the other gathers. That pays
// once there are chunks enough to make up for the halved size of each: from four on. Backward,
// whose chunks take longer, gains from two on where the halves keep 4096 rows (64 channels at 8 x
// 64 x 64: 11 % faster; 512 channels at 6 x 19 x 34, 1024 rows: 3 % slower). A third lane gained
// nothing.
constexpr int kLanes = 2;
constexpr int64_t kChunksForLanes = 4;
constexpr int64_t kRowsForLanesBackward = 4096;
// Kernels count the pixels of a chunk with 32 bits.
constexpr int64_t kMostChunkPixels = int64_t{1} << 30;

// Bytes that `lanes` need beside their columns: a GEMM workspace and a sum of the weight gradient
// each, in f32 (f64 for f64), and where there are several sums, their total.
int64_t fixed_bytes(const PlanRequest& request, int lanes) {
  const int64_t workspaces = lanes * kGemmWorkspaceBytes;
  if (request.pass == Pass::kForward || !request.output_mask[1]) return workspaces;
  const int64_t sum =
      request.shape.K * int64_t{request.shape.gemm_k()} * (request.dtype == Dtype::kF64 ? 8 : 4);
  return workspaces + (lanes == 1 ? 1 : lanes + 1) * sum;
}

int64_t column_bytes(const PlanRequest& request) {
  return request.shape.column_length() * size_of(request.dtype);
}

// The most pixels a chunk may have when `lanes` of them share the allowance.
int64_t fitting_pixels(const PlanRequest& request, int lanes) {
  const int64_t each =
      std::max<int64_t>(kWorkspaceAllowance - fixed_bytes(request, lanes), 0) / lanes;
  const int64_t pixels = each / column_bytes(request) / kGemmTileRows * kGemmTileRows;
  return std::max(pixels, kGemmTileRows);
}

// Chunks of equal size, as many as there are lanes or a multiple, so that no lane idles at the end.
int64_t choose_chunk_pixels(const PlanRequest& request, int lanes, int64_t pixels) {
  if (request.forced && request.forced->chunk_pixels > 0) return request.forced->chunk_pixels;
  if (request.im2col_step > 0) {
    const int64_t images = std::min<int64_t>(request.im2col_step, std::max(request.shape.N, 1));
    return images * request.shape.output_pixels_per_image();
  }
  const int64_t chunks = tiles_of(tiles_of(pixels, fitting_pixels(request, lanes)), lanes) * lanes;
  return tiles_of(tiles_of(pixels, chunks), kGemmTileRows) * kGemmTileRows;
}

int choose_lanes(const PlanRequest& request, int64_t pixels) {
  if (request.forced && request.forced->lanes > 0) return request.forced->lanes;
  const int64_t chunks = tiles_of(pixels, fitting_pixels(request, 1));
  if (chunks >= kChunksForLanes) return kLanes;
  const bool gains = request.pass == Pass::kBackward && chunks > 1 &&
                     choose_chunk_pixels(request, kLanes, pixels) >= kRowsForLanesBackward;
  return gains ? kLanes : 1;
}

Plan plan_im2col_gemm(const PlanRequest& request) {
  const int64_t pixels = std::max<int64_t>(request.shape.output_pixels(), 1);
  Plan plan;
  plan.algorithm = Algorithm::kIm2colGemm;
  plan.lanes = choose_lanes(request, pixels);
  plan.chunk_pixels =
      std::min({choose_chunk_pixels(request, plan.lanes, pixels), pixels, kMostChunkPixels});
  plan.chunks = tiles_of(pixels, plan.chunk_pixels);
  plan.lanes = static_cast<int>(std::min<int64_t>(plan.lanes, plan.chunks));
  plan.columns_bytes = plan.lanes * plan.chunk_pixels * column_bytes(request);
  plan.workspace_bytes = plan.columns_bytes + fixed_bytes(request, plan.lanes);
  if (request.pass == Pass::kBackward && request.output_mask[0]) {
    // Sums of atomic additions, which commute in fixed point only. A word of that is as large as an
    // f64, and f64 takes two.
    plan.fixed_point = plan.deterministic = request.deterministic;
    const int64_t sum = (request.dtype == Dtype::kF64 ? 8 : 4) * (plan.fixed_point ? 2 : 1);
    plan.accumulator_bytes = request.shape.input_pixels() * request.shape.C * sum;
  }
  return plan;
}

int64_t bias_gradient_bytes(const PlanRequest& request) {
  if (!request.output_mask[4]) return 0;
  return column_sum_bytes(request.shape.output_pixels(), request.shape.K, size_of(request.dtype));
}

Plan plan_fused(const PlanRequest& request) {
  Plan plan;
  plan.algorithm = Algorithm::kFused;
  if (request.pass == Pass::kBackward) {
    plan.fused_backward = plan_fused_backward(request.shape, fused_math(request),
                                              request.device.multiprocessors, request.output_mask);
    plan.workspace_bytes =
        workspace_bytes(plan.fused_backward, request.shape) + bias_gradient_bytes(request);
    plan.accumulator_bytes = plan.fused_backward.scatter.sum_bytes;
    plan.deterministic = plan.accumulator_bytes == 0;  // sums of atomic additions
    return plan;
  }
  plan.fused = plan_fused_forward(
      request.shape, fused_math(request),
      {request.device.compute_capability, request.device.multiprocessors},
      request.forced ? request.forced->tile : -1, request.forced ? request.forced->split_k : 0);
  plan.workspace_bytes = workspace_bytes(plan.fused);
  return plan;
}

Plan plan_cpu(const PlanRequest&) {
  Plan plan;
  plan.algorithm = Algorithm::kCpu;
  return plan;
}

}  // namespace

const char* name_of(Algorithm algorithm) {
  for (const AlgorithmName& entry : kAlgorithmNames) {
    if (entry.algorithm == algorithm) return entry.name;
  }
  throw std::logic_error("an algorithm without a name");
}

std::optional<Algorithm> algorithm_named(const std::string& name) {
  for (const AlgorithmName& entry : kAlgorithmNames) {
    if (name == entry.name) return entry.algorithm;
  }
  return std::nullopt;
}

const char* name_of(Pass pass) { return pass == Pass::kForward ? "forward" : "backward"; }

const char* name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
      return "f64";
    case Dtype::kF32:
      return "f32";
    case Dtype::kF16:
      return "f16";
    case Dtype::kBF16:
      return "bf16";
  }
  throw std::logic_error("a dtype without a name");
}

int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
      return 8;
    case Dtype::kF32:
      return 4;
    case Dtype::kF16:
    case Dtype::kBF16:
      return 2;
  }
  throw std::logic_error("a dtype without a size");
}

const std::vector<DeviceInfo>& device_presets() {
  static const std::vector<DeviceInfo> presets{
      {"cpu", false, 0, 2, 0},
      {"h200", true, 90, 132, 60 * kMiB},
      {"a100", true, 80, 108, 40 * kMiB},
      {"l20", true, 89, 92, 96 * kMiB},
      {"rtx4090", true, 89, 128, 72 * kMiB},
  };
  return presets;
}

std::optional<DeviceInfo> device_preset(const std::string& name) {
  for (const DeviceInfo& preset : device_presets()) {
    if (preset.name == name) return preset;
  }
  return std::nullopt;
}

std::string why_invalid(const ConvShape& shape) {
  const int32_t positive[] = {shape.C, shape.K,        shape.R,        shape.S,     shape.G,
                              shape.D, shape.stride_h, shape.stride_w, shape.dil_h, shape.dil_w};
  for (const int32_t value : positive) {
    if (value < 1) return "channels, kernel, groups, stride and dilation must be positive";
  }
  if (shape.N < 0 || shape.H < 0 || shape.W < 0 || shape.pad_h < 0 || shape.pad_w < 0) {
    return "batch, image size and padding must not be negative";
  }
  if (shape.C % shape.G != 0 || shape.K % shape.G != 0 || shape.C % shape.D != 0) {
    return "channels must be divisible by groups and by offset groups";
  }
  if (shape.P < 1 || shape.Q < 1) return "the output is too small: the kernel exceeds the input";
  return "";
}

FusedMath fused_math(const PlanRequest& request) {
  switch (request.dtype) {
    case Dtype::kF16:
      return FusedMath::kF16;
    case Dtype::kBF16:
      return FusedMath::kBF16;
    default:
      return request.tf32 ? FusedMath::kTf32 : FusedMath::k3xTf32;
  }
}

std::string why_not(Algorithm algorithm, const PlanRequest& request) {
  switch (algorithm) {
    case Algorithm::kCpu:
      return request.device.is_cuda ? "cpu runs on CPU tensors, but the device is a GPU" : "";
    case Algorithm::kIm2colGemm:
      return request.device.is_cuda ? "" : "im2col_gemm runs on a GPU, but the device is the CPU";
    case Algorithm::kFused:
      if (!request.device.is_cuda) return "fused runs on a GPU, but the device is the CPU";
      if (request.dtype == Dtype::kF64)
        return "fused runs on tensor cores, which f64 is left out of";
      if (request.device.compute_capability < 80) {
        return "fused needs compute capability 8.0 or newer, but the device has " +
               std::to_string(request.device.compute_capability / 10) + "." +
               std::to_string(request.device.compute_capability % 10);
      }
      if (request.pass == Pass::kBackward) {
        if (request.deterministic && request.output_mask[0] && scatters(request.shape)) {
          return "where few channels share their offsets, fused adds the input gradient up with "
                 "atomics, so its bits differ from run to run";
        }
        return why_not_fused_backward(
            request.shape, fused_math(request),
            {request.device.compute_capability, request.device.multiprocessors},
            request.output_mask);
      }
      return why_not_fused_forward(request.shape, fused_math(request),
                                   request.device.compute_capability);
  }
  throw std::logic_error("an algorithm without a reason");
}

// Forced on a forward pass whose backward it cannot serve, fused leaves that to the plan.
std::optional<Algorithm> forced_algorithm(const PlanRequest& request) {
  if (!request.forced) return std::nullopt;
  if (request.pass == Pass::kBackward && request.forced->algorithm == Algorithm::kFused &&
      !why_not(Algorithm::kFused, request).empty()) {
    return std::nullopt;
  }
  return request.forced->algorithm;
}

bool worth_fused_call(const PlanRequest& request) {
  const FusedMath math = fused_math(request);
  if (request.pass == Pass::kBackward) {
    const bool in_fixed_point = request.deterministic && request.output_mask[0];
    return (in_fixed_point ? worth_gather : worth_fused_backward)(request.shape, math);
  }
  return worth_fused_forward(request.shape, math, request.device.compute_capability);
}

Algorithm choose_algorithm(const PlanRequest& request) {
  if (!request.device.is_cuda) return Algorithm::kCpu;
  const bool fused = why_not(Algorithm::kFused, request).empty() && worth_fused_call(request);
  return fused ? Algorithm::kFused : Algorithm::kIm2colGemm;
}

std::string why_not_packed(const PlanRequest& request) {
  const std::string reason = why_not(Algorithm::kFused, request);
  if (!reason.empty()) return reason;
  const int capability = request.device.compute_capability;
  if (capability / 10 != 9) {
    return "fused takes packed weights on compute capability 9.x, but the device has " +
           std::to_string(capability / 10) + "." + std::to_string(capability % 10);
  }
  if (choose_algorithm(request) != Algorithm::kFused) {
    return "groups this small run im2col_gemm, which packs no weight";
  }
  return "";
}

Plan make_plan(const PlanRequest& request) {
  const std::string invalid = why_invalid(request.shape);
  if (!invalid.empty()) throw std::invalid_argument(invalid);
  const std::optional<Algorithm> forced = forced_algorithm(request);
  const std::string reason = forced ? why_not(*forced, request) : "";
  if (!reason.empty()) throw std::invalid_argument(reason);
  const Algorithm algorithm = forced ? *forced : choose_algorithm(request);
  switch (algorithm) {
    case Algorithm::kCpu:
      return plan_cpu(request);
    case Algorithm::kIm2colGemm:
      return plan_im2col_gemm(request);
    case Algorithm::kFused:
      return plan_fused(request);
  }
  throw std::logic_error("an algorithm without a plan");
}

std::string Plan::to_string() const {
  std::ostringstream text;
  text << name_of(algorithm);
  if (chunks > 0) {
    text << ": " << chunks << " chunk" << (chunks == 1 ? "" : "s") << " of " << chunk_pixels
         << " pixels on " << lanes << " lane" << (lanes == 1 ? "" : "s") << ", workspace "
         << (workspace_bytes + kMiB / 2) / kMiB << " MiB";
    if (fixed_point) text << ", input gradient in fixed point";
  }
  if (algorithm == Algorithm::kFused) {
    text << ": " << (fused.tile >= 0 ? describe(fused) : describe(fused_backward)) << ", workspace "
         << (workspace_bytes + kMiB / 2) / kMiB << " MiB";
  }
  return text.str();
}

}  // namespace dcn
