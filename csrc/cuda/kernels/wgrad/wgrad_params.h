// What travels to the kernels of the weight gradient, and their launcher; see params.h.
#pragma once

#include "../../../wgrad_tiles.h"
#include "../fused/fused_params.h"

namespace dcn {

struct WgradParams {
  ConvShape shape;
  FusedLayout layout;       // of the image
  FusedLayout grad_layout;  // of the gradient of the output, an image of K channels

  const void* input;  // [N, H, W, layout.channels], vectors aligned
  SamplingMap offset, mask;
  const void* grad;   // [N, P, Q, grad_layout.channels], vectors aligned
  void* grad_weight;  // [K, C/G, R, S], of the image's dtype
  int64_t stride_k, stride_c, stride_r, stride_s;
  MergedGroups merged;

  int32_t tile;  // of kWgradTiles
  // They share all steps of all tiles: the first early_ctas have early_steps evenly, the others the
  // rest. 0: all have the same share.
  int32_t ctas;
  int32_t early_ctas = 0;
  int64_t early_steps = 0;
  // Slices whose units of one tap follow one another: units run through unit_slices slices > taps >
  // slices of these.
  int32_t unit_slices = 1;
  float* partial;  // sums of the segments, partial_bytes of the plan

  // What follows from the shape and the tile, set by the launcher.
  int32_t tile_units, tile_channels;
  uint32_t pixels;        // of the output
  int32_t units;          // of a convolution group
  int32_t unit_tiles;     // of a group
  int32_t channel_tiles;  // of a group
  int32_t steps;          // of a tile
  int64_t all_steps;      // of all tiles
  PixelWalk walk;
  Divisor kernel_width;
};

// In 32 bits where they are enough: 64 take a hundred instructions.
DCN_HOST_DEVICE int64_t quotient(int64_t a, int64_t b) {
  if ((a | b) >> 32 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}
// Where the part of CTA `cta` begins among the steps of all tiles, one tile after the other.
DCN_HOST_DEVICE int64_t first_step(const WgradParams& params, int64_t cta) {
  const int64_t late = cta - params.early_ctas;
  if (late <= 0) return quotient(cta * params.early_steps, params.early_ctas);
  return params.early_steps +
         quotient(late * (params.all_steps - params.early_steps), params.ctas - params.early_ctas);
}
// The CTA to which a step belongs.
DCN_HOST_DEVICE int32_t cta_of_step(const WgradParams& params, int64_t step) {
  const int64_t late = step - params.early_steps;
  if (late < 0) {
    return static_cast<int32_t>(quotient((step + 1) * params.early_ctas - 1, params.early_steps));
  }
  const int32_t ctas = params.ctas - params.early_ctas;
  return params.early_ctas + static_cast<int32_t>(quotient((late + 1) * ctas - 1,
                                                           params.all_steps - params.early_steps));
}

cudaError_t launch_wgrad_sm90(WgradParams params, FusedMath math, cudaStream_t stream);

}  // namespace dcn
