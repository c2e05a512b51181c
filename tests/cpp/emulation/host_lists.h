// Landing lists by plain code, in the format of landing_lists.h.
#pragma once

#include <vector>

#include "convolution.h"
#include "cuda/kernels/landing/landing_lists.h"
#include "device_memory.h"

namespace emulation {

// Bins with more than `heavy` records are heavy. `merged`: convolution groups that run as one.
template <class Math>
class HostLists {
 public:
  using Element = typename Math::Element;

  HostLists(const Convolution& conv, int heavy, int merged = 1)
      : starts(planes_of(conv.shape) * starts_of_plane(conv.shape)),
        records(dcn::kFirstRecord + conv.shape.output_pixels() * conv.shape.D * conv.shape.taps()),
        heavy_rows(0) {
    const dcn::ConvShape& shape = conv.shape;
    const auto bins = sorted(conv);
    const int64_t of_plane = starts_of_plane(shape);
    std::vector<float> sums;  // of heavy bins
    uint32_t next = 0;
    records[0] = {};
    for (int64_t bin = 0; bin < planes_of(shape) * of_plane; ++bin) {
      const Records& own = bins[static_cast<size_t>(bin)];
      // A gap follows the records of a tap and image of which some samples are outside.
      if (bin % of_plane == 0) {
        next = dcn::kFirstRecord +
               static_cast<uint32_t>(bin / of_plane) * shape.output_pixels_per_image();
      }
      starts[bin] = next;
      if (static_cast<int>(own.size()) > heavy) {
        starts[bin] |= dcn::kHeavyStart;
        records[next] = own[0];
        records[next].mask = emulated_cast<float>(heavy_bins);
        for (size_t i = 1; i < own.size(); ++i) records[next + i] = own[i];
        next += static_cast<uint32_t>(own.size());
        ++heavy_bins;
        add_corners(conv, own, sums);
      } else {
        for (const dcn::LandingRecord& record : own) records[next++] = record;
      }
    }
    const dcn::ConvShape back = dcn::transposed(dcn::merged(shape, merged));
    heavy_rows =
        padded_to_device<float>(sums, shape.K, back.G, dcn::fused_layout(back, sizeof(Element)));
  }

  DeviceArray<uint32_t> starts;
  DeviceArray<dcn::LandingRecord> records;
  DeviceArray<float> heavy_rows;
  int heavy_bins = 0;

 private:
  using Records = std::vector<dcn::LandingRecord>;

  static int64_t planes_of(const dcn::ConvShape& shape) {
    return int64_t{shape.D} * shape.taps() * shape.N;
  }
  static int64_t starts_of_plane(const dcn::ConvShape& shape) {
    return int64_t{shape.H + 1} * (shape.W + 1) + 1;
  }

  static std::vector<Records> sorted(const Convolution& conv) {
    const dcn::ConvShape& shape = conv.shape;
    std::vector<Records> bins(static_cast<size_t>(planes_of(shape) * starts_of_plane(shape)));
    for (int64_t row = 0; row < shape.output_pixels(); ++row) {
      const auto q = static_cast<int>(row % shape.Q), p = static_cast<int>(row / shape.Q % shape.P);
      const auto n = static_cast<int>(row / shape.Q / shape.P);
      for (int map = 0; map < shape.D * shape.taps(); ++map) {
        const auto point = conv.sample(n, p, q, map / shape.taps(), map % shape.taps());
        if (!point.inside) continue;
        const int64_t plane = (int64_t{map} * shape.N + n) * starts_of_plane(shape);
        const int64_t bin = plane + (point.y0 + 1) * (shape.W + 1) + point.x0 + 1;
        bins[static_cast<size_t>(bin)].push_back({static_cast<uint32_t>(row), point.y0 + point.ly,
                                                  point.x0 + point.lx,
                                                  static_cast<float>(point.mask)});
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
          const double ly = r.y - std::floor(r.y), lx = r.x - std::floor(r.x);
          sum += r.mask * (corner & 2 ? ly : 1. - ly) * (corner & 1 ? lx : 1. - lx) *
                 conv.grad[static_cast<size_t>(int64_t{r.row} * K + k)];
        }
        sums.push_back(static_cast<float>(sum));
      }
    }
  }
};

}  // namespace emulation
