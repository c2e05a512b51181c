// The fused forward pass of small convolution groups on compute capability 9.0: so many of them
// that they fill a slice run as one, whose weight is packed with zeros between them.
#pragma once

#include "fprop_sm90.cuh"
#include "merged_output.cuh"

namespace dcn {

template <class Math, int kTile>
struct MergedFpropConfig : FpropConfig<Math, kTile> {
  using Params = MergedFpropParams;
  using Output = MergedOutput<Math>;
};

// `merged`: groups that are one of the shape.
template <class Math>
cudaError_t launch_fprop_merged_math(const FpropParams& params, int tile, int merged,
                                     int multiprocessors, cudaStream_t stream) {
  MergedFpropParams of_merged{};
  static_cast<FpropParams&>(of_merged) = params;
  of_merged.own_channels = params.shape.channels_per_group() / merged;
  of_merged.own_outputs = Divisor(params.shape.output_channels_per_group() / merged);
  return with_tile<90, Math>(tile, [&](auto index) {
    if constexpr (tile_merges(kFpropTiles[index()], Math::kKind)) {
      return launch_gather_gemm<MergedFpropConfig<Math, index()>>(of_merged, multiprocessors,
                                                                  stream);
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

}  // namespace dcn
