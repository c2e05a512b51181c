// The walk of the scatter through the lists of a tile, and what becomes of its sums.
#pragma once

#include "../../../bilinear.h"
#include "../atomic_add.cuh"
#include "../ptx_sm90.cuh"
#include "scatter_shared.cuh"

namespace dcn {

template <class Math>
class ScatterWalk {
 public:
  using Element = typename Math::Element;
  using Shared = ScatterShared<Element>;

  __device__ __forceinline__ ScatterWalk(const ScatterParams& params, const ScatterTile& tile,
                                         const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {}

  // A thread clears what it likes of the window.
  __device__ __forceinline__ void clear() const {
    for (int i = threadIdx.x; i < 2 * params_.window.pixels(); i += kScatterThreads) {
      shared_.window()[i] = {};
    }
  }

  // For all threads of the CTA.
  __device__ __forceinline__ void run(OrderedBins bins) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    // Long lists, which take a whole warp each, are shared out among the warps.
    const int own = bins.long_lists ? thread % 32 * (kScatterThreads / 32) + thread / 32 : thread;
#pragma unroll 1
    for (int32_t first = 0; first < bins.count; first += kScatterThreads) {
      const bool has_bin = first + own < bins.count;
      const uint32_t bin = has_bin ? shared_.order()[first + own] : 0;
      const BinList list(has_bin ? shared_.lists()[bin] : 0);
      float sums[4][kBlockChannels] = {};
      const uint32_t light_end = min(list.end, list.begin + kHeavyList);
#pragma unroll 1
      for (uint32_t i = list.begin; i < light_end; ++i) {
        float weight[4], gradient[kBlockChannels];
        load(i, weight, gradient);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int c = 0; c < kBlockChannels; ++c) {
            sums[k][c] = fmaf(weight[k], gradient[c], sums[k][c]);
          }
        }
      }
      add_heavy(light_end, list.end, sums);
      const uint32_t row = params_.bin_columns.quotient(bin);
      const uint32_t pixel = bin + row;  // the window has a column more than there are bins
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        // No two bins have the same pixel for the same corner.
        __syncthreads();
        if (!has_bin) continue;
        float4* const to = shared_.window() +
                           2 * (pixel + Sample<float>::corner_step(k, params_.window.columns + 1));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float4 so_far = to[half];
          const float* const own = sums[k] + 4 * half;
          to[half] = {so_far.x + own[0], so_far.y + own[1], so_far.z + own[2], so_far.w + own[3]};
        }
      }
    }
  }

  // To memory. In 16 bits by the copy engine: the window has to stay until the first warp has
  // waited (ptx::bulk_add_wait), which reads where lists begin, and the tile.
  __device__ __forceinline__ void flush(int32_t block) const {
    const InputSums sums = InputSums::of<Element>(params_, tile_, block);
    if constexpr (Shared::kWgmma) {
      flush_rows(sums.first);
    } else {
      flush_pixels(sums, tile_.block(params_, block).channels);
    }
  }

 private:
  // Those that have samples, as far as they are the image's.
  __device__ __forceinline__ void flush_rows(float* sums) const {
    const ConvShape& shape = params_.shape;
    const int32_t rows = params_.window.rows, columns = params_.window.columns;
    if (threadIdx.x >= 32) return;
#pragma unroll 1
    for (int32_t row = threadIdx.x; row <= rows; row += 32) {
      const auto begin = [&](int32_t of_row) {
        return BinList::begin_of(shared_.lists()[of_row * columns]);
      };
      const int32_t y = tile_.bin_y + row;
      const int32_t x = max(tile_.bin_x, 0), end = min(tile_.bin_x + columns + 1, shape.W);
      const bool touched = begin(max(row - 1, 0)) < begin(min(row + 1, rows));
      if (!touched || y < 0 || y >= shape.H || x >= end) continue;
      ptx::bulk_add(
          sums + int64_t{y * shape.W + x} * kBlockChannels,
          ptx::shared_address(shared_.window() + 2 * (row * (columns + 1) + x - tile_.bin_x)),
          (end - x) * kBlockChannels * sizeof(float));
    }
    ptx::bulk_add_commit();
    __syncwarp();  // the first thread finds other tiles
  }

  // A pixel has two threads, for half of the channels each.
  __device__ __forceinline__ void flush_pixels(const InputSums& sums, int32_t channels) const {
    const ConvShape& shape = params_.shape;
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int32_t half = thread % 2, pixels = params_.window.pixels();
    if (half * 4 >= channels) return;
    const int32_t bin_y = tile_.bin_y, bin_x = tile_.bin_x;
#pragma unroll 2
    for (int32_t i = thread / 2; i < pixels; i += kScatterThreads / 2) {
      const float4 total = shared_.window()[2 * i + half];
      const int32_t row = params_.window_columns.quotient(i);
      const int32_t y = bin_y + row;
      const int32_t x = bin_x + i - row * static_cast<int32_t>(params_.window_columns.value);
      const bool inside = static_cast<uint32_t>(y) < static_cast<uint32_t>(shape.H) &&
                          static_cast<uint32_t>(x) < static_cast<uint32_t>(shape.W);
      const bool touched = total.x != 0.f || total.y != 0.f || total.z != 0.f || total.w != 0.f;
      if (!inside || !touched) continue;
      atomic_add(sums.first + int64_t{y * shape.W + x} * sums.pixel + half * 4,
                 Vector<float, 4>{{total.x, total.y, total.z, total.w}});
    }
  }

  // Of the i-th sample in the lists.
  __device__ __forceinline__ void load(uint32_t i, float (&weight)[4],
                                       float (&gradient)[kBlockChannels]) const {
    const uint32_t sample = shared_.list()[i];
    const ScatterPlace<Element> place = shared_.place()[sample];
    const WindowWeights weights = window_weights({0, 0, place.ly(), place.lx()}, place.mask);
#pragma unroll
    for (int k = 0; k < 4; ++k) weight[k] = weights.weight[k];
    shared_.load_gradient(sample, gradient);
  }

  // What is left of the lists of a warp's bins; a corner at a time, for want of registers.
  __device__ __forceinline__ void add_heavy(uint32_t begin, uint32_t end,
                                            float (&sums)[4][kBlockChannels]) const {
    const int lane = threadIdx.x % 32;
    uint32_t heavy = __ballot_sync(~0u, begin < end);
#pragma unroll 1
    for (; heavy != 0; heavy &= heavy - 1) {
      const int whose = __ffs(static_cast<int>(heavy)) - 1;
      const uint32_t from = __shfl_sync(~0u, begin, whose), to = __shfl_sync(~0u, end, whose);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float part[kBlockChannels] = {};
#pragma unroll 1
        for (uint32_t i = from + lane; i < to; i += 32) {
          float weight[4], gradient[kBlockChannels];
          load(i, weight, gradient);
#pragma unroll
          for (int c = 0; c < kBlockChannels; ++c) {
            part[c] = fmaf(weight[k], gradient[c], part[c]);
          }
        }
#pragma unroll
        for (int c = 0; c < kBlockChannels; ++c) {
#pragma unroll
          for (int step = 16; step > 0; step /= 2) {
            part[c] += __shfl_xor_sync(~0u, part[c], step);
          }
          if (lane == whose) sums[k][c] += part[c];
        }
      }
    }
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
