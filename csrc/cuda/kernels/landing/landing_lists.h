// Landing lists on the device (landing_plan.h says what they are for), and their launcher.
#pragma once

#include <vector_types.h>

#include "../../../landing_plan.h"
#include "../params.h"

namespace dcn {

struct alignas(16) LandingRecord {
  uint32_t row;      // of grad, from the chunk's first image on: (image * P + p) * Q + q
  float y, x, mask;  // coordinates in the image; the mask is 1 where there is none
};

// Bins are [D][taps][image of the chunk][(H + 1) * (W + 1) + 1]; a sample whose top-left corner is
// (y, x) is in bin (y + 1) * (W + 1) + x + 1, and in none where it is outside. Records are sorted
// by bin, those of a bin by row, from kFirstRecord on; where samples are outside, a gap follows the
// records of their tap and image. starts[bin] says where a bin's records begin, and the next one
// where they end.
//
// Records of a heavy bin, whose start has the bit kHeavyStart, are in no order. Instead
// heavy_rows[4 * h + corner] holds the sum over its samples of mask * weight of that corner *
// grad[row], [grad_channels] in f32: four such sums meet in a pixel, and are rounded once. The bits
// of the first record's mask say h.
constexpr uint32_t kHeavyStart = 1u << 31;
struct LandingLists {
  const LandingRecord* records;
  const uint32_t* starts;
  const float* heavy_rows;
};

struct LandingParams {
  ConvShape shape;
  int32_t first_image, images;  // of the chunk
  SamplingMap offset, mask;
  const void* grad;  // [N, P, Q, grad_channels], rows in whole, aligned vectors of 16 bytes
  Dtype grad_dtype;
  int32_t grad_channels;
  void* workspace;        // landing_bytes, aligned to 256
  uint32_t* heavy_count;  // 0 at the start
};

LandingLists landing_lists(const LandingParams& params);
cudaError_t launch_landing_lists(const LandingParams& params, cudaStream_t stream);
// The sums of heavy bins, once the lists are there.
cudaError_t launch_heavy_sums(const LandingParams& params, cudaStream_t stream);

}  // namespace dcn
