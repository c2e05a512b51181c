#include "landing_plan.h"

#include <algorithm>

#include "fprop_tiles.h"

namespace dcn {
namespace {

constexpr int64_t kAlignment = 256;
// Bins and samples are numbered with 31 bits.
constexpr int64_t kMostNumbers = (int64_t{1} << 31) - 1;

int64_t samples_of(const ConvShape& shape, int32_t images) {
  return int64_t{shape.D} * shape.taps() * images * shape.output_pixels_per_image();
}
// A top-left corner may lie one row above the image and one column before it.
int64_t bins_of(const ConvShape& shape, int32_t images) {
  return int64_t{shape.D} * shape.taps() * images * (shape.H + 1) * (shape.W + 1);
}

void cut_planes(LandingPlan& plan) {
  const int64_t bins = plan.bins / plan.planes;
  const int64_t wanted = std::min<int64_t>(kLandingBlocks / plan.planes, kMostBands);
  const int64_t bands = std::max(tiles_of(bins, kMostBandBins), wanted);
  plan.band_bins = static_cast<int32_t>(tiles_of(bins, bands));
  plan.bands = static_cast<int32_t>(tiles_of(bins, plan.band_bins));
}

}  // namespace

LandingPlan landing_plan(const ConvShape& shape, int32_t images, int32_t grad_channels) {
  LandingPlan plan;
  plan.samples = samples_of(shape, images);
  plan.bins = bins_of(shape, images);
  plan.planes = int64_t{shape.D} * shape.taps() * images;
  plan.most_heavy_bins = plan.samples / (kHeavyBin + 1);
  const bool in_shared_memory = shape.output_pixels_per_image() <= kMostPlaneSamples &&
                                std::max(shape.H, shape.W) <= kMostPlaneWidth;
  if (in_shared_memory && images > 0) cut_planes(plan);
  int64_t end = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = end;
    end += tiles_of(bytes, kAlignment) * kAlignment;
    return begin;
  };
  const int64_t counted = in_shared_memory ? 0 : sizeof(uint32_t);
  plan.starts = take((plan.bins + plan.planes) * kLandingStartBytes);
  plan.heavy_bins = take(plan.most_heavy_bins * kHeavyBinBytes);
  const int64_t heavy_row = 4 * grad_channels * int64_t{sizeof(float)};
  plan.heavy_rows = take(std::max(plan.most_heavy_bins * heavy_row, plan.samples * counted));
  plan.records = take((kFirstRecord + plan.samples) * kLandingRecordBytes);
  plan.bytes = end;
  return plan;
}

std::string why_not_landing(const ConvShape& shape, int32_t images) {
  if (kFirstRecord + samples_of(shape, images) > kMostNumbers ||
      bins_of(shape, images) > kMostNumbers) {
    return "landing lists number samples and corners with 31 bits, and there are " +
           std::to_string(samples_of(shape, images)) + " samples and " +
           std::to_string(bins_of(shape, images)) + " corners";
  }
  return {};
}

int32_t images_of_chunk(const ConvShape& shape, int32_t grad_channels, int64_t allowance) {
  int32_t most = 1, too_many = shape.N + 1;
  while (too_many - most > 1) {
    const int32_t images = most + (too_many - most) / 2;
    const bool fits = why_not_landing(shape, images).empty() &&
                      landing_bytes(shape, images, grad_channels) <= allowance;
    (fits ? most : too_many) = images;
  }
  return most;
}

}  // namespace dcn
