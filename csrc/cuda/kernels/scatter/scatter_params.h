// What travels to the scatter, and its launchers; see params.h.
#pragma once

#include "../../../fast_divide.h"
#include "../../../scatter_tiles.h"
#include "../fused/fused_params.h"

namespace dcn {

// Where the parts of a CTA's shared memory begin, in bytes (scatter_shared.cuh).
struct ScatterPlaces {
  int32_t grad_tile, weights, gradient, window, landed, image, dots, place, lists, lengths,
      tap_place, astray, list, order, end;
};

struct ScatterParams {
  ConvShape shape;
  FusedLayout layout;       // of the image
  FusedLayout grad_layout;  // of grad: fused_layout(transposed(shape), ...)
  // What follows from the shape, set by the launcher.
  ScatterBlocks blocks;
  BinWindow window;
  ScatterWork work;
  ScatterPlaces places;
  Divisor bin_columns, window_columns, kernel_width;
  Divisor tiles, tiles_across, tiles_down;

  const void* image;         // by blocks: launch_image_planes
  const void* grad;          // [N, P, Q, grad_layout.channels], vectors aligned
  const void* weight;        // packed by launch_pack_scatter_weight
  SamplingMap offset, mask;  // mask.data is null for v1
  int32_t ctas;              // that share the tiles of all offset groups
  int32_t sum_ctas;          // of launch_scatter_results, by the launcher
  float* grad_input;         // sums (input_sum_bytes), added to, or null
  void* grad_offset;         // [N, 2*D*R*S, P, Q] in the offset's dtype, or null
  void* grad_mask;           // [N, D*R*S, P, Q] in the mask's dtype, or null
  // Of the weight gradient; null if it is not wanted.
  void* transposed_grad;  // transposed_grad_bytes, in 32 bits
  float* partial;         // scatter_partial_bytes
  void* grad_weight;      // [K, C/G, R, S], of the image's dtype
  int64_t stride_k, stride_c, stride_r, stride_s;
  // In 16 bits, what becomes of grad_input: [N, C, H, W] of the image's dtype.
  void* stored_input;
  int64_t input_n, input_c, input_h, input_w;  // strides

  // Of the tiles of all offset groups, the first one of a CTA.
  DCN_HOST_DEVICE int32_t first_item(int32_t cta) const {
    return static_cast<int32_t>(cta * (work.tiles * shape.D) / ctas);
  }
  // Whose a tile is.
  DCN_HOST_DEVICE int32_t cta_of(int64_t item) const {
    return static_cast<int32_t>(((item + 1) * ctas - 1) / (work.tiles * shape.D));
  }
  // Sums of a CTA, of an offset group's unit.
  DCN_HOST_DEVICE float* sums_of(int32_t cta, int32_t offset_group, int32_t unit) const {
    return partial + (int64_t{cta + offset_group} * work.units + unit) * kUnitSums;
  }
};

// The weight by offset group and block of its channels. In 16 bits [D, blocks, slices, R*S] tiles
// of 8 channels x 128 bytes, swizzled, as wgmma takes them; otherwise [D, blocks, halves, R*S,
// parts] vectors of 16 bytes for each lane of a warp, as mma.sync takes them (fused_mma.cuh).
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

// What the scatter needs: kernels that need nothing of one another. `beside_previous`: one starts
// before the one before it has ended, and ends behind it.
cudaError_t launch_image_planes(const ImagePlanesParams& params, cudaStream_t stream);
// In 32 bits the gradient, for the weight gradient.
cudaError_t launch_transpose_grad(const ScatterParams& params, FusedMath math, cudaStream_t stream,
                                  bool beside_previous);
// Zeros for the sums of the input gradient.
cudaError_t launch_clear_sums(float* sums, int64_t bytes, int multiprocessors, cudaStream_t stream,
                              bool beside_previous);
cudaError_t launch_pack_scatter_weight(const PackScatterWeightParams& params, cudaStream_t stream,
                                       bool beside_previous);

// Right behind them.
cudaError_t launch_scatter(const ScatterParams& params, FusedMath math, cudaStream_t stream);
// Right behind it: the weight gradient from what the CTAs have left; in 16 bits the input gradient
// to its dtype and layout.
cudaError_t launch_scatter_results(const ScatterParams& params, FusedMath math,
                                   cudaStream_t stream);

}  // namespace dcn
