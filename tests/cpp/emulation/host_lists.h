// Landing lists by plain code, in the format of landing_lists.h.
#pragma once

#include <vector>

#include "convolution.h"
#include "cuda/kernels/landing_lists.h"
#include "device_memory.h"

namespace emulation {

// Bins with more than `heavy` records are heavy.
template <class Math>
class HostLists {
 public:
  using Element = typename Math::Element;

  HostLists(const Convolution& conv, int heavy)
      : runs(bins_of(conv.shape)),
        records(conv.shape.output_pixels() * conv.shape.D * conv.shape.taps()),
        heavy_rows(0) {
    const dcn::ConvShape& shape = conv.shape;
    const auto bins = sorted(conv);
    const int64_t of_plane = int64_t{shape.H + 1} * (shape.W + 1);
    std::vector<float> sums;  // of heavy bins
    int64_t next = 0;
    for (int64_t bin = 0; bin < bins_of(shape); ++bin) {
      const Records& own = bins[static_cast<size_t>(bin)];
      // A gap follows the records of a tap and image of which some samples are outside.
      if (bin % of_plane == 0) next = bin / of_plane * shape.output_pixels_per_image();
      if (own.empty()) {
        runs[bin] = {0, 0};
      } else if (static_cast<int>(own.size()) > heavy) {
        runs[bin] = {~heavy_bins, ~heavy_bins};
        ++heavy_bins;
        add_corners(conv, own, sums);
      } else {
        const auto begin = static_cast<int32_t>(next);
        for (const dcn::LandingRecord& record : own) records[next++] = record;
        runs[bin] = {begin, static_cast<int32_t>(next)};
      }
    }
    const dcn::ConvShape back = dcn::transposed(shape);
    heavy_rows =
        padded_to_device<float>(sums, shape.K, shape.G, dcn::fused_layout(back, sizeof(Element)));
  }

  DeviceArray<int2> runs;
  DeviceArray<dcn::LandingRecord> records;
  DeviceArray<float> heavy_rows;
  int heavy_bins = 0;

 private:
  using Records = std::vector<dcn::LandingRecord>;

  static int64_t bins_of(const dcn::ConvShape& shape) {
    return int64_t{shape.D} * shape.taps() * shape.N * (shape.H + 1) * (shape.W + 1);
  }

  static std::vector<Records> sorted(const Convolution& conv) {
    const dcn::ConvShape& shape = conv.shape;
    std::vector<Records> bins(static_cast<size_t>(bins_of(shape)));
    for (int64_t row = 0; row < shape.output_pixels(); ++row) {
      const auto q = static_cast<int>(row % shape.Q), p = static_cast<int>(row / shape.Q % shape.P);
      const auto n = static_cast<int>(row / shape.Q / shape.P);
      for (int map = 0; map < shape.D * shape.taps(); ++map) {
        const auto point = conv.sample(n, p, q, map / shape.taps(), map % shape.taps());
        if (!point.inside) continue;
        const int64_t bin_row = (int64_t{map} * shape.N + n) * (shape.H + 1) + point.y0 + 1;
        bins[static_cast<size_t>(bin_row * (shape.W + 1) + point.x0 + 1)].push_back(
            {static_cast<uint32_t>(row), point.ly, point.lx, static_cast<float>(point.mask)});
      }
    }
    return bins;
  }

  // For each corner the sum of mask * weight of that corner * grad[row], [K].
  static void add_corners(const Convolution& conv, const Records& own, std::vector<float>& sums) {
    const int32_t K = conv.shape.K;
    for (int corner = 0; corner < 4; ++corner) {
      for (int32_t k = 0; k < K; ++k) {
        double sum = 0;
        for (const dcn::LandingRecord& r : own) {
          const double ly = r.ly, lx = r.lx;
          sum += r.mask * (corner & 2 ? ly : 1. - ly) * (corner & 1 ? lx : 1. - lx) *
                 conv.grad[static_cast<size_t>(int64_t{r.row} * K + k)];
        }
        sums.push_back(static_cast<float>(sum));
      }
    }
  }
};

}  // namespace emulation
