#include "plan.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace dcn {
namespace {

struct AlgorithmName {
  Algorithm algorithm;
  const char* name;
};
constexpr AlgorithmName kAlgorithmNames[] = {
    {Algorithm::kCpu, "cpu"},
    {Algorithm::kIm2colGemm, "im2col_gemm"},
};

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// im2col_gemm: how many output pixels share one columns slice, and on how many lanes the slices are worked.
//
// The columns of all lanes together should live in the L2 and never reach device memory. A third of the L2 leaves room for the
// image, the weights and the output that pass through it meanwhile: an H200 reads 8 TB/s from its 60 MB of L2 up to a working
// set of 32 MB and half of that beyond.
constexpr int64_t kColumnsShareOfL2 = 3;
// cuBLAS tiles are up to 256 rows high; chunks in multiples of it waste no part of a tile.
constexpr int64_t kGemmTileRows = 256;
// Chunks in flight: while one lane's GEMM fills the tensor cores, the next lane gathers. A third lane gained nothing.
constexpr int kLanes = 2;

int64_t chunk_pixels_of(const PlanRequest& request, int lanes) {
  const ConvShape& shape = request.shape;
  const int64_t total = std::max<int64_t>(shape.output_pixels(), 1);
  if (request.forced && request.forced->chunk_pixels > 0) {
    return std::min(request.forced->chunk_pixels, total);
  }
  if (request.im2col_step > 0) {
    const int64_t images = std::min<int64_t>(request.im2col_step, std::max(shape.N, 1));
    return images * shape.output_pixels_per_image();
  }
  const int64_t column_bytes = shape.column_length() * size_of(request.dtype);
  const int64_t budget = request.device.l2_bytes / kColumnsShareOfL2 / lanes;
  const int64_t fitting = budget / column_bytes / kGemmTileRows * kGemmTileRows;
  return std::min(std::max(fitting, kGemmTileRows), total);
}

Plan plan_im2col_gemm(const PlanRequest& request) {
  const ConvShape& shape = request.shape;
  const int64_t total = std::max<int64_t>(shape.output_pixels(), 1);
  Plan plan;
  plan.algorithm = Algorithm::kIm2colGemm;
  const bool lanes_forced = request.forced && request.forced->lanes > 0;
  plan.lanes = lanes_forced ? request.forced->lanes : kLanes;
  plan.chunk_pixels = chunk_pixels_of(request, plan.lanes);
  plan.chunks = ceil_div(total, plan.chunk_pixels);
  plan.lanes = static_cast<int>(std::min<int64_t>(plan.lanes, plan.chunks));
  plan.columns_bytes =
      plan.lanes * plan.chunk_pixels * shape.column_length() * size_of(request.dtype);
  plan.workspace_bytes = plan.columns_bytes + plan.lanes * kGemmWorkspaceBytes;
  if (request.pass == Pass::kBackward) {
    const int64_t accumulate = request.dtype == Dtype::kF64 ? 8 : 4;
    if (request.output_mask[1]) {
      plan.workspace_bytes += plan.lanes * shape.K * int64_t{shape.gemm_k()} * accumulate;
    }
    if (request.output_mask[0]) {
      plan.accumulator_bytes = shape.input_pixels() * shape.C * accumulate;
      plan.deterministic = false;  // the input gradient is a sum of atomic additions
    }
  }
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
    case Dtype::kF64: return "f64";
    case Dtype::kF32: return "f32";
    case Dtype::kF16: return "f16";
    case Dtype::kBF16: return "bf16";
  }
  throw std::logic_error("a dtype without a name");
}

int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64: return 8;
    case Dtype::kF32: return 4;
    case Dtype::kF16:
    case Dtype::kBF16: return 2;
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

std::string why_not(Algorithm algorithm, const PlanRequest& request) {
  switch (algorithm) {
    case Algorithm::kCpu:
      return request.device.is_cuda ? "cpu runs on CPU tensors, but the device is a GPU" : "";
    case Algorithm::kIm2colGemm:
      if (!request.device.is_cuda) return "im2col_gemm runs on a GPU, but the device is the CPU";
      if (request.deterministic && request.pass == Pass::kBackward && request.output_mask[0]) {
        return "im2col_gemm adds the input gradient up with atomics, so its bits differ from run "
               "to run";
      }
      return "";
  }
  throw std::logic_error("an algorithm without a reason");
}

Plan make_plan(const PlanRequest& request) {
  const Algorithm fallback =
      request.device.is_cuda ? Algorithm::kIm2colGemm : Algorithm::kCpu;
  const Algorithm algorithm = request.forced ? request.forced->algorithm : fallback;
  // The caller raises PyTorch's own alert when nothing deterministic serves the request; it must still run under warn_only.
  PlanRequest relaxed = request;
  relaxed.deterministic = false;
  const std::string reason = why_not(algorithm, relaxed);
  if (!reason.empty()) throw std::invalid_argument(reason);
  switch (algorithm) {
    case Algorithm::kCpu: return plan_cpu(request);
    case Algorithm::kIm2colGemm: return plan_im2col_gemm(request);
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
  }
  return text.str();
}

}  // namespace dcn
