#include "fused.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "pack_params.h"
#include "padded_nhwc.h"

namespace dcn {

using at::Tensor;

Tensor fused_pack_weight(const ConvShape& shape, FusedMath math, const Tensor& weight) {
  const Tensor packed = at::empty(packed_sizes(shape, math),
                                  weight.options().memory_format(at::MemoryFormat::Contiguous));
  PackWeightParams params =
      pack_params(shape, math, weight, merged_groups(shape, math, /*compute_capability=*/90));
  params.tile_channels = kPieceChannels;
  params.packed = packed.mutable_data_ptr();
  C10_CUDA_CHECK(launch_pack_weight(params, c10::cuda::getCurrentCUDAStream()));
  return packed;
}

bool fused_takes(const Tensor& packed, const ConvShape& shape, const FusedPlan& plan,
                 const Tensor& weight) {
  return takes_packed_weight(plan) && packed.device() == weight.device() &&
         packed.scalar_type() == weight.scalar_type() &&
         packed.sizes() == at::IntArrayRef(packed_sizes(shape, plan.math)) &&
         packed.is_contiguous() && vectors_aligned(packed);
}

namespace {

// The weight first: packing must not wait for what the kernel behind it reads. Where the weight is
// large, that kernel waits for packing, and all else can wait (rcnn-c5 in tf32: 54.8 -> 55.9 us).
void prefetch_for(const FusedCall& call, PackWeightParams& pack) {
  if (static_cast<int64_t>(call.weight.nbytes()) > kMostPrefetched) return;
  const ConvShape& shape = call.shape;
  const int32_t maps = shape.D * shape.taps();
  if (call.weight.is_non_overlapping_and_dense()) {
    pack.prefetch[0] = prefetch_of(pack.weight, static_cast<int64_t>(call.weight.nbytes()));
  }
  pack.prefetch[1] = prefetch_of(call.offset, shape, 2 * maps);
  pack.prefetch[2] = prefetch_of(call.mask, shape, maps);
  pack.prefetch[3] =
      prefetch_of(call.input.const_data_ptr(), static_cast<int64_t>(call.input.nbytes()));
}

}  // namespace

void fused_forward(const FusedCall& call, const std::optional<Tensor>& bias, const Tensor& output) {
  const FusedPlan& plan = call.plan.fused;
  const ConvShape shape = merged(call.shape, plan.merged);
  const FusedLayout layout = fused_layout(shape, element_bytes(plan.math));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  // Memory first: what PyTorch fills it with, in deterministic mode, must not come between the
  // conversion of the image and the kernel that packs beside it, and may be written late.
  Tensor packed = call.packed_weight;
  if (!plan.prepacked) {
    packed =
        at::empty({plan.packed_bytes},
                  output.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous));
  }
  const Tensor input = padded_nhwc(call.input, shape, layout);
  const bool converted = input.const_data_ptr() != call.input.const_data_ptr();

  const bool sm80 = kFpropTiles[plan.tile].architecture == 80;
  if (!plan.prepacked) {
    PackWeightParams pack = pack_params(call.shape, plan.math, call.weight, plan.merged);
    pack.tile_channels = packed_channels(kFpropTiles[plan.tile]);
    pack.for_mma_sync = sm80;
    pack.whole = pack.whole && !sm80;
    pack.beside_conversion = converted && !sm80;
    pack.packed = packed.mutable_data_ptr();
    if (!converted) prefetch_for(call, pack);
    C10_CUDA_CHECK(launch_pack_weight(pack, stream));
  }

  FpropParams params{};
  params.shape = shape;
  params.layout = layout;
  params.input = input.const_data_ptr();
  params.offset = call.offset;
  params.mask = call.mask;
  params.weight = packed.const_data_ptr();
  params.prepacked = plan.prepacked;
  params.whole = packed_parts(shape, layout, plan.math, plan.merged) < weight_parts(plan.math);
  params.converted = converted;
  params.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
  params.output = output.mutable_data_ptr();
  params.nchw = !output.is_contiguous(at::MemoryFormat::ChannelsLast);
  params.split_k = plan.split_k;
  C10_CUDA_CHECK(sm80
                     ? launch_fprop_sm80(params, plan.math, plan.tile, call.multiprocessors, stream)
                     : launch_fprop_sm90(params, plan.math, plan.tile, plan.merged,
                                         call.multiprocessors, stream));
}

}  // namespace dcn
