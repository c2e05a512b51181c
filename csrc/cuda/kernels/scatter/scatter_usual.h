// What nearly all calls of narrow offset groups in 16 bits have in common: a kernel of its own
// knows it when it is compiled, which takes a quarter of its instructions away.
#pragma once

#include "scatter_params.h"

namespace dcn {

constexpr BinWindow usual_window() {
  BinWindow window;
  window.rows = kScatterRows + 2 + 2 * kHalo;
  window.columns = kScatterColumns + 2 + 2 * kHalo;
  window.halo_rows = window.halo_columns = kHalo;
  return window;
}

// 3 x 3 taps side by side, one convolution group with a slice of output channels, offset groups of
// 8 channels, maps of UsualMaps, and all gradients wanted, or all but the weight's.
inline bool is_usual(const ScatterParams& params) {
  const ConvShape& shape = params.shape;
  return shape.R == 3 && shape.S == 3 && shape.stride_h == 1 && shape.stride_w == 1 &&
         shape.dil_h == 1 && shape.dil_w == 1 && shape.G == 1 &&
         shape.channels_per_offset_group() == kBlockChannels && params.blocks.slices() == 1 &&
         params.work.panels == 1 && params.mask.data != nullptr &&
         (params.mask.dtype != Dtype::kF32 || params.offset.dtype == Dtype::kF32) &&
         params.grad_input != nullptr && params.grad_offset != nullptr &&
         params.grad_mask != nullptr;
}

// The dtypes of offset and mask: both as the image, both of f32, or as autocast leaves an offset of
// f32 beside a mask.
enum class UsualMaps { kNarrow, kWide, kWideOffset };

// The same numbers, but those are constants. `narrow`: the image's dtype.
template <UsualMaps kMaps, bool kWithWeight>
DCN_HOST_DEVICE ScatterParams as_usual(const ScatterParams& given, const ScatterPlaces& places,
                                       Dtype narrow) {
  ScatterParams params = given;
  ConvShape& shape = params.shape;
  shape.R = shape.S = 3;
  shape.stride_h = shape.stride_w = shape.dil_h = shape.dil_w = 1;
  shape.G = 1;
  FusedLayout& layout = params.layout;
  layout.segment = layout.padded_segment = layout.offset_channels = kBlockChannels;
  layout.group_channels = layout.channels;
  params.blocks.count = params.blocks.of_segment = 1;
  params.blocks.halves = 2;
  params.work.chunks = params.work.panels = params.work.units = 1;
  params.window = usual_window();
  params.places = places;
  params.bin_columns = Divisor(static_cast<uint32_t>(params.window.columns));
  params.window_columns = Divisor(static_cast<uint32_t>(params.window.columns + 1));
  params.offset.dtype = kMaps == UsualMaps::kNarrow ? narrow : Dtype::kF32;
  params.mask.dtype = kMaps == UsualMaps::kWide ? Dtype::kF32 : narrow;
  if (!kWithWeight) params.partial = nullptr;
#if defined(__CUDA_ARCH__)
  __builtin_assume(params.mask.data != nullptr);
  __builtin_assume(params.grad_input != nullptr);
  __builtin_assume(params.grad_offset != nullptr);
  __builtin_assume(params.grad_mask != nullptr);
  if (kWithWeight) __builtin_assume(params.partial != nullptr);
#endif
  return params;
}

struct UsualScatterParams {
  ScatterParams params;
  TensorMap grad;  // of a tile of pixels
};

inline cudaError_t make_grad_map(const ScatterParams& params, TensorMap& map) {
  const ConvShape& shape = params.shape;
  const int64_t sizes[] = {params.grad_layout.channels, shape.Q, shape.P, shape.N};
  const int32_t tile[] = {kSliceBytes / 2, kScatterColumns, kScatterRows, 1};
  return make_tensor_map(map, const_cast<void*>(params.grad), sizes, tile);
}

}  // namespace dcn
