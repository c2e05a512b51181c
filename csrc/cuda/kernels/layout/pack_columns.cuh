// Packs a weight for wgmma whose output channels lie side by side, as those of a transposed weight
// do that is channels_last (pack_weight.cu says where everything goes).
#pragma once

#include "../fused/fused_params.h"
#include "../kernel_setup.h"
#include "../ptx_sm90.cuh"
#include "../sampling.cuh"
#include "weight_order.cuh"

namespace dcn {

struct PackWalk : PackWeightParams {
  Divisor units, slices, chunks;  // of a tile's walk: chunks of slices of blocks
  Divisor channel_tiles, kernel_width;
  uint32_t tiles;  // of dcn_pack_columns_kernel: for each slice and tap
  bool pairs;      // two channels of 16 bits are one load
};

// Zeroes the counters: every kernel that packs.
__device__ __forceinline__ void zero_counters(const PackWeightParams& params) {
  const uint32_t block = blockIdx.x + gridDim.x * blockIdx.y;
  for (uint32_t i = block * blockDim.x + threadIdx.x; i < params.counter_count;
       i += gridDim.x * gridDim.y * blockDim.x) {
    params.counters[i] = 0;
  }
}

constexpr int kTeamThreads = 256;
constexpr int kManyTeams = 4;  // of a CTA, where few CTAs pack

// The rows of a tile for one slice and tap, turned in shared memory by a team of threads.
template <class Math, int kParts>
class PackedColumns {
 public:
  using Element = typename Math::Element;
  static constexpr int kSlice = kSliceBytes / sizeof(Element);
  static constexpr int kVec = kVectorBytes / sizeof(Element);
  static constexpr int kRowVectors = kPieceChannels / kVec;
  using Columns = Vector<Element, kVec>[kSlice][kRowVectors];

  __device__ __forceinline__ PackedColumns(const PackWalk& params, Columns& columns,
                                           uint32_t number, int thread)
      : params_(params), columns_(columns), thread_(thread) {
    const int32_t tile = params.units.quotient(number);  // of the groups' output channels
    const int32_t unit = number - tile * params.units.value;
    tap_ = params.slices.quotient(unit), slice_ = unit - tap_ * params.slices.value;
    group_ = params.channel_tiles.quotient(tile);
    tile_ = tile - group_ * params.channel_tiles.value;
  }

  __device__ __forceinline__ void read() const {
    const ConvShape& shape = params_.shape;
    const int32_t first_k = tile_ * kPieceChannels;
    const int32_t r = params_.kernel_width.quotient(tap_), s = tap_ - r * shape.S;
    const Element* const from = static_cast<const Element*>(params_.weight) +
                                group_ * params_.stride_g + r * params_.stride_r +
                                s * params_.stride_s;
#pragma unroll
    for (int i = 0; i < kSlice * kRowVectors / kTeamThreads; ++i) {
      const int32_t at = i * kTeamThreads + thread_;
      const int32_t column = at / kRowVectors, k = first_k + at % kRowVectors * kVec;
      const int32_t c = slice_ * kSlice + column;
      Vector<Element, kVec> vector = {};
      if (k < shape.output_channels_per_group() && c < params_.layout.block_channels) {
        vector = *reinterpret_cast<const Vector<Element, kVec>*>(from + c * params_.stride_c + k);
      }
      columns_[column][at % kRowVectors] = vector;
    }
  }

  __device__ __forceinline__ void write() const {
    constexpr int kChannels = 4 / sizeof(Element);  // of a register
    const FusedLayout& layout = params_.layout;
    const int32_t first_tap = tap_ / layout.chunk_taps * layout.chunk_taps;
    const int32_t chunk_taps = min(layout.chunk_taps, params_.shape.taps() - first_tap);
    const int32_t step = first_tap * layout.slices + slice_ * chunk_taps + tap_ - first_tap;
    const int32_t tile_bytes = kPieceChannels * kSliceBytes;
    const int32_t part_bytes = params_.channel_tiles.value * tile_bytes;
    uint8_t* const to = static_cast<uint8_t*>(params_.packed) +
                        (int64_t{group_} * layout.steps + step) * kParts * part_bytes +
                        tile_ * tile_bytes;
#pragma unroll
    for (int i = 0; i < kPieceChannels * 8 / kTeamThreads; ++i) {
      const int32_t row = thread_ % kPieceChannels;
      const int32_t vector = i * (kTeamThreads / kPieceChannels) + thread_ / kPieceChannels;
      const int32_t k = tile_channel(row);
      uint32_t value[kParts][4];
#pragma unroll
      for (int quad = 0; quad < 4; ++quad) {
        const int32_t first = (vector / 4 * 16 + quad * 4 + vector % 4) * kChannels;
        Vector<Element, kChannels> split[kParts];
#pragma unroll
        for (int e = 0; e < kChannels; ++e) {
          Math::split(reinterpret_cast<const Element*>(columns_[first + e])[k], split, e);
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          value[part][quad] = reinterpret_cast<const uint32_t&>(split[part]);
        }
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        *reinterpret_cast<uint4*>(to + part * part_bytes + row * kSliceBytes +
                                  (vector ^ row % 8) * kVectorBytes) =
            uint4{value[part][0], value[part][1], value[part][2], value[part][3]};
      }
    }
  }

 private:
  const PackWalk& params_;
  Columns& columns_;
  const int thread_;
  int32_t group_, tile_, tap_, slice_;
};

// (It is launched behind what comes before, and need not wait for it.)
template <class Math, int kParts, int kTeams>
__global__ void __launch_bounds__(kTeamThreads* kTeams)
    dcn_pack_columns_kernel(const __grid_constant__ PackWalk params) {
  __shared__ typename PackedColumns<Math, kParts>::Columns columns[kTeams];
  ptx::launch_dependents();
  zero_counters(params);
  const uint32_t team = threadIdx.x / kTeamThreads;
#pragma unroll 1
  for (uint32_t first = blockIdx.x * kTeams; first < params.tiles; first += gridDim.x * kTeams) {
    const bool exists = first + team < params.tiles;
    const PackedColumns<Math, kParts> packed(params, columns[team], exists ? first + team : 0,
                                             threadIdx.x % kTeamThreads);
    if (exists) packed.read();
    __syncthreads();
    if (exists) packed.write();
    __syncthreads();
  }
}

}  // namespace dcn
