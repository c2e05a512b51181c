// What travels to the scatter, and its launchers; see params.h.
#pragma once

#include "../../fast_divide.h"
#include "../../scatter_tiles.h"
#include "fused_params.h"

namespace dcn {

struct ScatterParams {
  ConvShape shape;
  FusedLayout layout;       // of the image
  FusedLayout grad_layout;  // of grad: fused_layout(transposed(shape), ...)
  // What follows from the shape, set by the launcher.
  ScatterBlocks blocks;
  BinWindow window;
  Divisor bin_columns, window_columns, kernel_width;
  Divisor offset_groups, tiles_across, tiles_down;

  const void* image;         // by blocks: launch_image_planes
  const void* grad;          // [N, P, Q, grad_layout.channels], vectors aligned
  const void* weight;        // packed by launch_pack_scatter_weight
  SamplingMap offset, mask;  // mask.data is null for v1
  float* grad_input;         // [N, H, W, layout.channels], added to, or null
  void* grad_offset;         // [N, 2*D*R*S, P, Q] in the offset's dtype, or null
  void* grad_mask;           // [N, D*R*S, P, Q] in the mask's dtype, or null
};

// The weight by offset group and block of its channels: [D, blocks, halves, R*S, parts] vectors of
// 16 bytes for each lane of a warp, as mma.sync takes them (fused_mma.cuh).
struct PackScatterWeightParams {
  ConvShape shape;
  FusedLayout layout;
  FusedLayout grad_layout;
  FusedMath math;
  const void* weight;                              // [K, C/G, R, S]
  int64_t stride_k, stride_c, stride_r, stride_s;  // elements
  void* packed;
};

// The image by blocks of the channels of its offset groups (plane_bytes).
struct ImagePlanesParams {
  ConvShape shape;
  FusedLayout layout;
  int32_t element_bytes;
  const void* image;  // [N, H, W, C]
  void* planes;
};

cudaError_t launch_image_planes(const ImagePlanesParams& params, cudaStream_t stream);
cudaError_t launch_pack_scatter_weight(const PackScatterWeightParams& params, cudaStream_t stream);
cudaError_t launch_scatter(const ScatterParams& params, FusedMath math, cudaStream_t stream);

}  // namespace dcn
