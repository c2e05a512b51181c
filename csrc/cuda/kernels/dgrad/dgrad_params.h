// What travels to the kernel of the fused input gradient; see params.h.
#pragma once

#include "../../../dgrad_tiles.h"
#include "../fused/fused_params.h"
#include "../landing/landing_lists.h"

namespace dcn {

// irregular_bytes of them; all but the list is 0 at the start.
struct IrregularTiles {
  int32_t count;
  uint32_t heavy_bins;  // of the landing lists
  DCN_HOST_DEVICE int32_t* flags() { return &count + 2; }
  DCN_HOST_DEVICE int32_t* list(int32_t tiles) { return flags() + tiles; }
};

// Rows of tiles are pixels of blocks; blocks go through an image in strips of two rows of them,
// column by column. Set by the launcher.
struct BlockWalk {
  uint32_t height, width;  // blocks of an image
  Divisor image, strip;    // blocks
};

// The forward pass of the transposed convolution (its input is grad, its output the input
// gradient), whose samples are those of landing lists. `weight` is packed in tiles of
// kPieceChannels, so that kernels with different tiles share it.
struct DgradParams : FpropParams {
  LandingLists lists;
  MergedGroups merged;
  int32_t channels_per_offset_group;
  int32_t channels_of_tile, plane_starts;  // starts of a plane's bins; set by the launcher
  BlockWalk blocks;
  IrregularTiles* irregular;
};

// `tile` is an index of kDgradTiles, or kIrregularDgrad: the second kernel, which alone reads the
// sums of heavy bins.
constexpr int kIrregularDgrad = -1;
cudaError_t launch_dgrad_sm90(const DgradParams& params, FusedMath math, int tile,
                              int multiprocessors, cudaStream_t stream);

}  // namespace dcn
