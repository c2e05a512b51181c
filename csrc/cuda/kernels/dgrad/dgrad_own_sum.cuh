// One gradient of the image by a walk over the landing lists of its pixel.
#pragma once

#include "../fprop/merged_output.cuh"
#include "../landing/landing_bins.cuh"

namespace dcn {

template <class Math>
struct DgradOwnSum {
  using Params = DgradParams;

  // Of channel c of a group.
  static __device__ __forceinline__ float of(const DgradParams& params, int32_t group, int32_t c,
                                             OutputPixel at) {
    using Element = typename Math::Element;
    const ConvShape& shape = params.shape;  // P x Q are the pixels of the image
    const FusedLayout& layout = params.layout;
    const int32_t first = params.merged.outputs.quotient(c) * params.merged.channels.value;
    const int32_t end = first + params.merged.channels.value;
    const auto* const grad =
        static_cast<const Element*>(params.input) + group * layout.group_channels;
    float sum = 0.f;
    // Some channels at a time, whose loads are on their way together.
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int32_t i = first; i < end; i += kAtOnce) {
      int32_t padded[kAtOnce];
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) padded[e] = padded_channel(layout, min(i + e, end - 1));
#pragma unroll 1
      for (int32_t tap = 0; tap < shape.taps(); ++tap) {
        float weight[kAtOnce];
#pragma unroll
        for (int e = 0; e < kAtOnce; ++e) {
          weight[e] = packed_weight<Math>(params, group, c, padded[e], tap);
        }
        const auto add = [&](const auto* row, float share) {
          float value[kAtOnce];
#pragma unroll
          for (int e = 0; e < kAtOnce; ++e) value[e] = widen(row[padded[e]]);
#pragma unroll
          for (int e = 0; e < kAtOnce; ++e) {
            if (i + e < end) sum = fmaf(share * value[e], weight[e], sum);
          }
        };
        const uint32_t* const starts = starts_of(params, tap) + int64_t{at.n} * params.plane_starts;
#pragma unroll 1
        for (int corner = 0; corner < 4; ++corner) {  // that the pixel is, of a sample
          const uint32_t* const bin = starts + bin_with_corner(at.p, at.q, corner, shape.Q + 1);
          const uint32_t start = __ldg(bin), begin = start & ~kHeavyStart;
          if (start != begin) {
            const uint32_t heavy = __float_as_uint(load_record(params, begin).mask);
            add(params.lists.heavy_rows + (int64_t{heavy} * 4 + corner) * layout.channels +
                    group * layout.group_channels,
                1.f);
            continue;
          }
          const uint32_t behind = __ldg(bin + 1) & ~kHeavyStart;
#pragma unroll 1
          for (uint32_t j = begin; j < behind; ++j) {
            const LandingRecord record = load_record(params, j);
            const float share = corner_weight(record, corner);
            add(grad + int64_t{record.row} * layout.channels, share * record.mask);
          }
        }
        if (sum != sum) return sum;  // stays NaN: where nothing is a number, all is done soon
      }
    }
    return sum;
  }
};

}  // namespace dcn
