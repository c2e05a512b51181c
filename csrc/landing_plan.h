// Landing lists: the samples of a backward pass sorted by where they land, so that the input
// gradient can be gathered. What they take of memory; the kernels are in landing_lists.cu.
//
// The input gradient of pixel (y, x) collects from the samples of four bins, those whose top-left
// corner is (y, x), (y, x - 1), (y - 1, x) or (y - 1, x - 1). Lists are made for some images of the
// batch at a time, a chunk, which bounds the workspace.
#pragma once

#include <cstdint>
#include <string>

#include "shape.h"

namespace dcn {

// A bin with more records is heavy: its sums are made beforehand (LandingLists).
constexpr int kHeavyBin = 64;

// Bytes of what the kernels keep for a record, a bin and a heavy bin.
constexpr int64_t kLandingRecordBytes = 16;
constexpr int64_t kLandingStartBytes = 4;
constexpr int64_t kHeavyBinBytes = 16;

// Records begin behind one of zeros, which is read where there is none.
constexpr int kFirstRecord = 1;

// A plane, the samples of a tap and offset group in one image, is sorted in shared memory where its
// samples can be counted in 16 bits; a CTA has a band of its bins there.
constexpr int32_t kMostPlaneSamples = (1 << 16) - 1;
constexpr int32_t kMostPlaneWidth = 1 << 21;  // and height: floors are taken by an addition
constexpr int32_t kMostBandBins = 1 << 15;
// Every CTA of a plane walks all its samples, so planes are cut no further than to have work for so
// many CTAs; of them a multiprocessor has one.
constexpr int32_t kLandingBlocks = 132;
constexpr int32_t kMostBands = 4;

// Parts of the workspace, in bytes from its begin, which must be aligned to 256.
struct LandingPlan {
  int64_t samples = 0, bins = 0, planes = 0;  // of a chunk
  int64_t most_heavy_bins = 0;
  int32_t bands = 0, band_bins = 0;  // of a plane; 0: planes are sorted in device memory
  int64_t starts = 0;
  int64_t heavy_bins = 0;
  // While planes are sorted in device memory, a number for each sample.
  int64_t heavy_rows = 0;
  int64_t records = 0;
  int64_t bytes = 0;
};

// Rows of the incoming gradient have grad_channels elements.
LandingPlan landing_plan(const ConvShape& shape, int32_t images, int32_t grad_channels);

inline int64_t landing_bytes(const ConvShape& shape, int32_t images, int32_t grad_channels) {
  return landing_plan(shape, images, grad_channels).bytes;
}

// Empty, or why a chunk of so many images has no landing lists.
std::string why_not_landing(const ConvShape& shape, int32_t images);

// The most images of a chunk whose workspace is within `allowance` bytes; at least one.
int32_t images_of_chunk(const ConvShape& shape, int32_t grad_channels, int64_t allowance);

}  // namespace dcn
