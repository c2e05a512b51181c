// What travels to the kernel of the offset and mask gradients, and its launcher; see params.h.
#pragma once

#include "../../../fast_divide.h"
#include "../../../fused_layout.h"
#include "../../../ograd_plan.h"
#include "../fused/fused_params.h"

namespace dcn {

struct OgradParams {
  ConvShape shape;
  FusedLayout layout;       // of the image
  FusedLayout grad_layout;  // of grad and of the weight: fused_layout(transposed(shape), ...)
  // What follows from the shape and the plan, set by the launcher.
  uint32_t pixels;      // of the output
  int32_t pixel_tiles;  // of them
  PixelWalk walk;
  Divisor kernel_width, tap_parts;
  int32_t groups, channels;  // that an offset group meets: convolution groups; channels of each

  const void* image;         // [N, H, W, layout.channels], vectors aligned
  const void* grad;          // [N, P, Q, grad_layout.channels], vectors aligned
  const void* weight;        // packed for the transposed shape, in tiles of kPieceChannels
  SamplingMap offset, mask;  // mask.data is null for v1
  void* grad_offset;         // [N, 2*D*R*S, P, Q] in the offset's dtype, or null
  void* grad_mask;           // [N, D*R*S, P, Q] in the mask's dtype, or null
};

cudaError_t launch_ograd_sm90(const OgradParams& params, FusedMath math, int multiprocessors,
                              cudaStream_t stream);

}  // namespace dcn
