// The fused forward pass of small convolution groups on compute capability 9.0: so many of them
// that they fill a slice run as one, whose weight is packed with zeros between them.
#pragma once

#include "fprop_sm90.cuh"
#include "merged_output.cuh"

namespace dcn {

// The sum of an output at a pixel, the bias not included.
template <class Math>
struct FpropOwnSum {
  using Params = MergedFpropParams;

  static __device__ __forceinline__ float of(const MergedFpropParams& params, int32_t group,
                                             int32_t k, OutputPixel at) {
    using Element = typename Math::Element;
    const ConvShape& shape = params.shape;
    const FusedLayout& layout = params.layout;
    const int32_t per_offset_group = shape.channels_per_offset_group();
    const int32_t before = group * shape.channels_per_group();
    const uint32_t row_elements = shape.W * layout.channels;
    const Element* const image = static_cast<const Element*>(params.input) +
                                 int64_t{at.n} * shape.H * row_elements +
                                 group * layout.group_channels;
    int32_t c = params.merged.outputs.quotient(k) * params.merged.channels.value;
    const int32_t end = c + params.merged.channels.value;
    float sum = 0.f;
    while (c < end) {  // channels that share their samples
      const int32_t d = (before + c) / per_offset_group;
      const int32_t last = min(end, (d + 1) * per_offset_group - before);
#pragma unroll 1
      for (int32_t tap = 0; tap < shape.taps(); ++tap) {
        const int32_t r = params.kernel_width.quotient(tap), s = tap - r * shape.S;
        const int32_t map = d * shape.taps() + tap;
        const MapCursor<Math> offset(params.offset, at, 2 * map), mask(params.mask, at, map);
        const FusedSample sample =
            fused_sample(shape.origin_y(at.p, r) + offset.value(offset.load(0)),
                         shape.origin_x(at.q, s) + offset.value(offset.load(1)),
                         mask.absent() ? 1.f : mask.value(mask.load(0)), shape.H, shape.W,
                         row_elements, layout.channels, /*image_base=*/0);
#pragma unroll 2
        for (int32_t i = c; i < last; ++i) {
          const int32_t padded = padded_channel(layout, i);
          float value = sample.weight.x * widen(image[sample.corner.x + padded]);
          value = fmaf(sample.weight.y, widen(image[sample.corner.y + padded]), value);
          value = fmaf(sample.weight.z, widen(image[sample.corner.z + padded]), value);
          value = fmaf(sample.weight.w, widen(image[sample.corner.w + padded]), value);
          if (sample.outside) value = 0.f;
          sum = fmaf(value, packed_weight<Math>(params, group, k, padded, tap), sum);
        }
        if (sum != sum) return sum;  // stays NaN: where nothing is a number, all is done soon
      }
      c = last;
    }
    return sum;
  }
};

template <class Math, int kTile>
struct MergedFpropConfig : FpropConfig<Math, kTile> {
  using Params = MergedFpropParams;
  using Output = MergedOutput<Math, FpropOwnSum<Math>>;
};

// `merged`: groups that are one of the shape.
template <class Math>
cudaError_t launch_fprop_merged_math(const FpropParams& params, int tile, int merged,
                                     int multiprocessors, cudaStream_t stream) {
  MergedFpropParams of_merged{};
  static_cast<FpropParams&>(of_merged) = params;
  of_merged.merged = {params.shape, merged};
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
