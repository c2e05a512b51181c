// What travels to the weight gradient of narrow offset groups, and its launchers; see params.h.
#pragma once

#include "../../fast_divide.h"
#include "../../wgrad_narrow_tiles.h"
#include "fused_params.h"

namespace dcn {

struct WgradNarrowParams {
  ConvShape shape;
  FusedLayout layout;       // of the image
  FusedLayout grad_layout;  // of grad: fused_layout(transposed(shape), ...)
  // What follows from the shape, set by the launcher.
  WgradNarrowWork work;
  uint32_t pixels;  // of the output
  PixelWalk walk;
  Divisor kernel_width;

  const void* image;  // by blocks: launch_image_planes
  const void* grad;   // [N, P, Q, grad_layout.channels], vectors aligned
  SamplingMap offset, mask;
  void* transposed_grad;  // work.transposed_bytes
  float* partial;         // work.partial_bytes
  int32_t slices;         // CTAs that share the pixels of a unit
  void* grad_weight;      // [K, C/G, R, S], of the image's dtype
  int64_t stride_k, stride_c, stride_r, stride_s;
};

cudaError_t launch_wgrad_narrow(const WgradNarrowParams& params, FusedMath math,
                                cudaStream_t stream);

}  // namespace dcn
