#include "fused.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/fused_params.h"
#include "padded_nhwc.h"

namespace dcn {
namespace {

using at::Tensor;

constexpr int64_t kAlignment = 256;  // of the parts of the workspace
int64_t aligned(int64_t bytes) { return tiles_of(bytes, kAlignment) * kAlignment; }

}  // namespace

void fused_forward(const FusedCall& call, const std::optional<Tensor>& bias, const Tensor& output) {
  const FusedPlan& plan = call.plan.fused;
  const FusedLayout layout = fused_layout(call.shape, element_bytes(plan.math));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor input = padded_nhwc(call.input, call.shape, layout);
  const Tensor workspace =
      at::empty({aligned(plan.packed_bytes) + aligned(plan.partial_bytes) + plan.counter_bytes},
                output.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous));
  auto* const bytes = static_cast<uint8_t*>(workspace.mutable_data_ptr());
  auto* const partial = bytes + aligned(plan.packed_bytes);
  auto* const counters = partial + aligned(plan.partial_bytes);

  PackWeightParams pack{};
  pack.shape = call.shape;
  pack.layout = layout;
  pack.math = plan.math;
  pack.weight = call.weight.const_data_ptr();
  pack.stride_g = call.shape.output_channels_per_group() * call.weight.stride(0);
  pack.stride_k = call.weight.stride(0);
  pack.stride_c = call.weight.stride(1);
  pack.stride_r = call.weight.stride(2);
  pack.stride_s = call.weight.stride(3);
  const bool sm80 = kFpropTiles[plan.tile].architecture == 80;
  pack.tile_channels = kFpropTiles[plan.tile].channels;
  pack.for_mma_sync = sm80;
  pack.packed = bytes;
  pack.counters = reinterpret_cast<int32_t*>(counters);
  pack.counter_count = static_cast<int32_t>(plan.counter_bytes / sizeof(int32_t));
  C10_CUDA_CHECK(launch_pack_weight(pack, stream));

  FpropParams params{};
  params.shape = call.shape;
  params.layout = layout;
  params.input = input.const_data_ptr();
  params.offset = call.offset;
  params.mask = call.mask;
  params.weight = bytes;
  params.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
  params.output = output.mutable_data_ptr();
  params.nchw = !output.is_contiguous(at::MemoryFormat::ChannelsLast);
  params.split_k = plan.split_k;
  params.partial = reinterpret_cast<float*>(partial);
  params.split_tiles = reinterpret_cast<SplitTile*>(counters);
  const auto launch = sm80 ? launch_fprop_sm80 : launch_fprop_sm90;
  C10_CUDA_CHECK(launch(params, plan.math, plan.tile, call.multiprocessors, stream));
}

}  // namespace dcn
