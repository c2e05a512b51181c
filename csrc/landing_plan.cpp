#include "landing_plan.h"

#include <algorithm>

namespace dcn {
namespace {

constexpr int64_t kAlignment = 256;
// Bins and samples are numbered with 31 bits.
constexpr int64_t kMostNumbers = (int64_t{1} << 31) - 1;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t samples_of(const ConvShape& shape, int32_t images) {
  return int64_t{shape.D} * shape.taps() * images * shape.output_pixels_per_image();
}
// A top-left corner may lie one row above the image and one column before it.
int64_t bins_of(const ConvShape& shape, int32_t images) {
  return int64_t{shape.D} * shape.taps() * images * (shape.H + 1) * (shape.W + 1);
}

}  // namespace

LandingPlan landing_plan(const ConvShape& shape, int32_t images, int grad_bytes,
                         int32_t grad_channels) {
  LandingPlan plan;
  plan.samples = samples_of(shape, images);
  plan.bins = bins_of(shape, images);
  plan.most_heavy_bins = plan.samples / (kHeavyBin + 1);
  int64_t end = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = end;
    end += aligned(bytes);
    return begin;
  };
  plan.runs = take(plan.bins * kLandingRunBytes);
  plan.heavy_bins = take(plan.most_heavy_bins * kHeavyBinBytes);
  const int64_t heavy_rows = plan.most_heavy_bins * 4 * grad_channels * grad_bytes;
  plan.heavy_rows = take(std::max<int64_t>(heavy_rows, plan.samples * sizeof(int32_t)));
  plan.counters = take(kScanCounterBytes);
  plan.scan_states = take((plan.bins + kScanBins - 1) / kScanBins * kScanStateBytes);
  const int64_t counts = plan.bins * static_cast<int64_t>(sizeof(int32_t));
  plan.records = take(std::max(plan.samples * kLandingRecordBytes, counts));
  plan.zeroed_end = plan.records + counts;
  plan.bytes = end;
  return plan;
}

std::string why_not_landing(const ConvShape& shape, int32_t images) {
  if (samples_of(shape, images) > kMostNumbers || bins_of(shape, images) > kMostNumbers) {
    return "landing lists number samples and corners with 31 bits, and there are " +
           std::to_string(samples_of(shape, images)) + " samples and " +
           std::to_string(bins_of(shape, images)) + " corners";
  }
  return {};
}

int32_t images_of_chunk(const ConvShape& shape, int grad_bytes, int32_t grad_channels,
                        int64_t allowance) {
  int32_t most = 1, too_many = shape.N + 1;
  while (too_many - most > 1) {
    const int32_t images = most + (too_many - most) / 2;
    const bool fits = why_not_landing(shape, images).empty() &&
                      landing_bytes(shape, images, grad_bytes, grad_channels) <= allowance;
    (fits ? most : too_many) = images;
  }
  return most;
}

}  // namespace dcn
