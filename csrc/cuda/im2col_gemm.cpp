// NOTE [im2col_gemm]
//
// The work is walked in chunks of output pixels, contiguous ranges of the flattened (n, p, q), as
// large as the workspace allowance of the plan lets them be. Chunk i runs on lane i % lanes:
//
//   forward    im2col  image -> columns [pixels, G, R*S, C/G], and the bias into the output rows
//              GEMM    output[pixels, K] (+)= columns * weight^T, a batch entry a group, in place
//
//   backward   GEMM    gradient columns = grad[pixels, K] * weight
//              col2im  offset and mask gradients; input gradient, by atomics (in deterministic
//                      mode by a scatter before, in fixed point); columns in place of their
//                      gradients
//              GEMM    weight gradient of the lane += grad^T * columns
//
// While one lane's GEMM fills the tensor cores, another lane gathers. Each lane has its slice of
// the columns, its cuBLAS workspace and its sum of the weight gradient; which chunks a lane serves
// is fixed, and lanes are added in order, so the bits of all but the input gradient repeat, and its
// own where integers are added.
// Everything is allocated on the caller's stream before the fork.
#include "im2col_gemm.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>

#include "device_info.h"
#include "fixed_point_sums.h"
#include "gemm.h"
#include "stream_fork.h"
#include "workspace.h"

namespace dcn {
namespace {

using at::Tensor;

// The widest access that every address of a channel vector allows: alignment of the tensors, and
// channel counts so that a vector lies within one offset group and one convolution group.
int32_t vector_bytes(const Im2colGemmCall& call, bool backward) {
  const int64_t element = size_of(call.dtype);
  const auto address = reinterpret_cast<uintptr_t>(call.input.const_data_ptr());
  // Backward moves four channels a lane: consecutive lanes then add to consecutive 16-byte pieces
  // of the f32 sums. Eight would leave holes between them, and each instruction would touch twice
  // the sectors.
  int32_t bytes = backward ? std::min<int32_t>(16, 4 * element) : 16;
  const auto fits = [&](int32_t width) {
    const int64_t channels = width / element;
    return call.shape.channels_per_offset_group() % channels == 0 &&
           call.shape.channels_per_group() % channels == 0 && address % width == 0;
  };
  while (bytes > element && !fits(bytes)) bytes /= 2;
  return bytes;
}

// Units a block serves: as many as still leave every multiprocessor its eight resident blocks.
// Fewer repeat the block's overhead (one unit a block: 2 times slower on a large layer), more leave
// multiprocessors idle on small ones (3 times slower).
int32_t tile_units(const ConvShape& shape, int32_t pixels, int multiprocessors) {
  constexpr int64_t kResidentBlocks = 8;  // 2048 threads of a multiprocessor / 256
  const int64_t units = int64_t{shape.taps()} * shape.D;
  const int64_t blocks = (pixels + kTilePixels - 1) / kTilePixels * units;
  const int64_t wanted = kResidentBlocks * multiprocessors;
  const int64_t most = std::min<int64_t>(units, kMaxTileUnits);
  return static_cast<int32_t>(std::clamp<int64_t>(blocks / wanted, 1, most));
}

struct Lanes {
  Tensor buffer;
  int64_t columns_bytes;  // of one lane, padded to keep the next slice aligned

  Lanes(const Im2colGemmCall& call) {
    const int64_t bytes = call.plan.chunk_pixels * call.shape.column_length() * size_of(call.dtype);
    columns_bytes = aligned_part(bytes);
    buffer = at::empty({call.plan.lanes * (columns_bytes + kGemmWorkspaceBytes)},
                       call.input.options().dtype(at::kByte).memory_format(std::nullopt));
  }
  uint8_t* columns(int lane) const {
    return buffer.mutable_data_ptr<uint8_t>() + lane * (columns_bytes + kGemmWorkspaceBytes);
  }
  void* workspace(int lane) const { return columns(lane) + columns_bytes; }
};

// Runs body(chunk params, lane, first pixel, is the lane's first chunk) for every chunk on its
// lane's stream.
template <typename Body>
void for_each_chunk(const Im2colGemmCall& call, Pass pass, Gemm& gemm, Body&& body) {
  const ConvShape& shape = call.shape;
  const Lanes lanes(call);
  const auto caller = c10::cuda::getCurrentCUDAStream();
  const StreamFork fork(caller, call.plan.lanes);
  const int32_t bytes = vector_bytes(call, pass == Pass::kBackward);
  const int multiprocessors = device_info(call.input.device().index()).multiprocessors;
  for (int64_t i = 0; i < call.plan.chunks; ++i) {
    const int lane = static_cast<int>(i % call.plan.lanes);
    const int64_t first = i * call.plan.chunk_pixels;
    ColumnParams chunk{};
    chunk.shape = shape;
    chunk.dtype = call.dtype;
    chunk.input = call.input.const_data_ptr();
    chunk.offset = call.offset;
    chunk.mask = call.mask;
    chunk.first_image = static_cast<int32_t>(first / shape.output_pixels_per_image());
    chunk.first_pixel = static_cast<int32_t>(first % shape.output_pixels_per_image());
    chunk.pixels =
        static_cast<int32_t>(std::min(call.plan.chunk_pixels, shape.output_pixels() - first));
    chunk.vector_bytes = bytes;
    chunk.tile_units = tile_units(shape, chunk.pixels, multiprocessors);
    chunk.columns = lanes.columns(lane);
    gemm.use_lane(fork.lane(lane), lanes.workspace(lane), kGemmWorkspaceBytes);
    body(chunk, fork.lane(lane).stream(), lane, first, i < call.plan.lanes);
  }
}

GemmOperand columns_operand(const ColumnParams& chunk, cublasOperation_t operation) {
  return {chunk.columns, operation, chunk.shape.column_length(), chunk.shape.gemm_k(), chunk.dtype};
}

GemmOperand weight_operand(const Im2colGemmCall& call, cublasOperation_t operation) {
  const int64_t length = call.shape.gemm_k();
  return {call.weight.const_data_ptr(), operation, length, length * call.shape.gemm_n(),
          call.dtype};
}

// Rows [pixels, K] of an output or its gradient.
const void* rows_at(const Tensor& rows, int64_t first_pixel, int64_t K) {
  return static_cast<const uint8_t*>(rows.const_data_ptr()) + first_pixel * K * rows.element_size();
}

}  // namespace

void im2col_gemm_forward(const Im2colGemmCall& call, const std::optional<Tensor>& bias,
                         const Tensor& output) {
  const ConvShape& shape = call.shape;
  Gemm gemm(c10::cuda::getCurrentCUDAStream());
  for_each_chunk(call, Pass::kForward, gemm,
                 [&](const ColumnParams& chunk, cudaStream_t stream, int, int64_t first, bool) {
                   Im2colParams params{};
                   params.chunk = chunk;
                   params.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
                   params.output = const_cast<void*>(rows_at(output, first, shape.K));
                   C10_CUDA_CHECK(launch_im2col(params, stream));

                   GemmProblem problem{};
                   problem.gemm_m =
                       shape.gemm_n();  // cuBLAS is column-major: it sees our rows as columns
                   problem.gemm_n = chunk.pixels;
                   problem.gemm_k = shape.gemm_k();
                   problem.a = weight_operand(call, CUBLAS_OP_T);
                   problem.b = columns_operand(chunk, CUBLAS_OP_N);
                   problem.out = params.output;
                   problem.out_leading_dim = shape.K;
                   problem.out_batch_stride = shape.gemm_n();
                   problem.out_dtype = call.dtype;
                   problem.accumulate = bias.has_value();
                   problem.batch = shape.G;
                   problem.tf32 = call.tf32;
                   gemm.run(problem);
                 });
}

namespace {

GemmProblem gradient_columns(const Im2colGemmCall& call, const ColumnParams& chunk,
                             const GemmOperand& grad) {
  GemmProblem problem{};
  problem.gemm_m = call.shape.gemm_k();
  problem.gemm_n = chunk.pixels;
  problem.gemm_k = call.shape.gemm_n();
  problem.a = weight_operand(call, CUBLAS_OP_N);
  problem.b = grad;
  problem.out = chunk.columns;
  problem.out_leading_dim = call.shape.column_length();
  problem.out_batch_stride = call.shape.gemm_k();
  problem.out_dtype = call.dtype;
  problem.batch = call.shape.G;
  problem.tf32 = call.tf32;
  return problem;
}

GemmProblem weight_gradient(const Im2colGemmCall& call, const ColumnParams& chunk, GemmOperand grad,
                            const Tensor& lane_sum, bool first_of_lane) {
  grad.operation = CUBLAS_OP_T;
  GemmProblem problem{};
  problem.gemm_m = call.shape.gemm_k();
  problem.gemm_n = call.shape.gemm_n();
  problem.gemm_k = chunk.pixels;
  problem.a = columns_operand(chunk, CUBLAS_OP_N);
  problem.b = grad;
  problem.out = lane_sum.mutable_data_ptr();
  problem.out_leading_dim = call.shape.gemm_k();
  problem.out_batch_stride = int64_t{call.shape.gemm_k()} * call.shape.gemm_n();
  problem.out_dtype = call.dtype == Dtype::kF64 ? Dtype::kF64 : Dtype::kF32;
  problem.accumulate = !first_of_lane;
  problem.batch = call.shape.G;
  problem.tf32 = call.tf32;
  return problem;
}

}  // namespace

void im2col_gemm_backward(const Im2colGemmCall& call, const Tensor& grad,
                          const Im2colGemmGradients& gradients) {
  const ConvShape& shape = call.shape;
  const auto data = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; };
  std::optional<FixedPointSums> sums;
  if (call.plan.fixed_point) sums.emplace(call, grad);
  const bool sampling = gradients.offset.defined() || gradients.mask.defined();
  const bool samples = sampling || gradients.input.defined();
  const bool only_sums = sums && !sampling && !gradients.weight.defined();
  Gemm gemm(c10::cuda::getCurrentCUDAStream());
  for_each_chunk(call, Pass::kBackward, gemm,
                 [&](const ColumnParams& chunk, cudaStream_t stream, int lane, int64_t first,
                     bool first_of_lane) {
                   const GemmOperand grad_rows{rows_at(grad, first, shape.K), CUBLAS_OP_N, shape.K,
                                               shape.gemm_n(), call.dtype};
                   if (samples) {
                     gemm.run(gradient_columns(call, chunk, grad_rows));
                     if (sums) sums->scatter(chunk, stream);
                     if (only_sums) return;
                     Col2imParams params{};
                     params.chunk = chunk;
                     params.write_columns = gradients.weight.defined();
                     params.grad_input = sums ? nullptr : data(gradients.input);
                     params.grad_offset = data(gradients.offset);
                     params.grad_mask = data(gradients.mask);
                     C10_CUDA_CHECK(launch_col2im(params, stream));
                   } else {
                     Im2colParams params{};
                     params.chunk = chunk;
                     C10_CUDA_CHECK(launch_im2col(params, stream));
                   }
                   if (gradients.weight.defined()) {
                     gemm.run(weight_gradient(call, chunk, grad_rows,
                                              gradients.weight.select(0, lane), first_of_lane));
                   }
                 });
  if (sums) sums->store(gradients.input);
}

}  // namespace dcn
