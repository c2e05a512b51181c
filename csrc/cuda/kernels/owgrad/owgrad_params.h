// What travels to the kernel of the offset, mask and weight gradients together, and its launcher;
// see params.h.
#pragma once

#include "../wgrad/wgrad_params.h"

namespace dcn {

struct OwgradParams : WgradParams {
  const void* weight;  // packed for the transposed shape, in tiles of kPieceChannels rows
  void* grad_offset;   // [N, 2*D*R*S, P, Q] in the offset's dtype, or null
  void* grad_mask;     // [N, D*R*S, P, Q] in the mask's dtype, or null
  // The parts of these gradients, if a sample's channels are shared out among several units; null
  // otherwise.
  float* parts;
};

cudaError_t launch_owgrad_sm90(OwgradParams params, FusedMath math, cudaStream_t stream);

}  // namespace dcn
