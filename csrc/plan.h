// The plan: which algorithm runs a call, and how its work is cut.
//
// A pure function of values: no CUDA call, no environment, no state. So each choice is a unit test,
// and can be printed for a device that is not there. To add an algorithm: a value of Algorithm, its
// sentence in why_not, its estimate in make_plan.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fused_backward_plan.h"
#include "fused_plan.h"
#include "shape.h"

namespace dcn {

enum class Algorithm { kCpu, kIm2colGemm, kFused };
enum class Pass { kForward, kBackward };
enum class Dtype { kF64, kF32, kF16, kBF16 };

const char* name_of(Algorithm algorithm);
const char* name_of(Pass pass);
const char* name_of(Dtype dtype);
std::optional<Algorithm> algorithm_named(const std::string& name);
int64_t size_of(Dtype dtype);

// The properties of a device that choices depend on. CPUs are is_cuda = false, with
// `multiprocessors` counting threads.
struct DeviceInfo {
  std::string name;
  bool is_cuda = false;
  int compute_capability = 0;  // 90 for 9.0
  int multiprocessors = 1;
  int64_t l2_bytes = 0;
};

// Presets make plans testable and printable where no such device is.
const std::vector<DeviceInfo>& device_presets();
std::optional<DeviceInfo> device_preset(const std::string& name);

// What a caller demands instead of the plan's own choice; 0 lanes, pixels or parts and a tile of -1
// leave that number to the plan.
struct ForcedPlan {
  Algorithm algorithm;
  int lanes = 0;
  int64_t chunk_pixels = 0;
  int tile = -1;
  int split_k = 0;
};

struct PlanRequest {
  ConvShape shape;
  Pass pass = Pass::kForward;
  Dtype dtype = Dtype::kF32;
  bool tf32 = false;
  bool deterministic = false;
  bool channels_last = true;
  std::array<bool, 5> output_mask{true, true, true, true, true};  // input weight offset mask bias
  int64_t im2col_step = 0;  // images a chunk; 0: the plan decides
  std::optional<ForcedPlan> forced;
  DeviceInfo device;
};

struct Plan {
  Algorithm algorithm = Algorithm::kCpu;
  int64_t chunk_pixels = 0;  // output pixels whose columns exist at one time in one lane
  int64_t chunks = 0;
  int lanes = 1;                     // chunks in flight, each on a stream of its own
  int64_t columns_bytes = 0;         // all lanes together
  int64_t workspace_bytes = 0;       // columns, GEMM workspaces, partial sums and their total
  int64_t accumulator_bytes = 0;     // sums of the input gradient: in f32, where the dtype is
                                     // narrower, or in fixed point
  bool fixed_point = false;          // im2col_gemm adds the input gradient up in integers
  bool deterministic = true;         // same inputs, same bits
  FusedPlan fused;                   // where the algorithm is fused, of a forward pass
  FusedBackwardPlan fused_backward;  // and of a backward pass

  std::string to_string() const;
};

// Bytes of cuBLAS workspace of one lane. Without one of its own, results on several streams may
// differ from run to run. 4 MiB is what cuBLAS asks for below Hopper; more was not faster on the
// layers of the benchmark.
constexpr int64_t kGemmWorkspaceBytes = int64_t{4} << 20;

// Empty when the shape is one that a convolution can have, otherwise what is wrong with it. Calls
// arrive checked, with better messages (check.h); this guards plans asked for by numbers.
std::string why_invalid(const ConvShape& shape);

// Empty when `algorithm` can serve the request, otherwise the reason as a sentence.
std::string why_not(Algorithm algorithm, const PlanRequest& request);

// Throws std::invalid_argument with that sentence when a forced algorithm cannot serve the request.
// Asked for determinism, every plan is deterministic.
Plan make_plan(const PlanRequest& request);

// How fused multiplies.
FusedMath fused_math(const PlanRequest& request);
// Empty, or why no forward call with this weight, on this device, would take one packed before.
std::string why_not_packed(const PlanRequest& request);

}  // namespace dcn
