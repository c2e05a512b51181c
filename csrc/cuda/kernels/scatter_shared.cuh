// What the phases of the scatter share: the tile of a CTA, and the parts of its shared memory.
#pragma once

#include "fused_samples.cuh"
#include "scatter_lists.cuh"
#include "scatter_params.h"

namespace dcn {

// The channels of a block at one sample or pixel.
template <typename Element>
struct alignas(16) ChannelBlock {
  static constexpr int kVectors = sizeof(Element) * kBlockChannels / kVectorBytes;
  Element lane[kBlockChannels];
};

// Where a sample lies between its corners, and its mask. Where sums are rounded to 16 bits, 16 bits
// of a fraction are enough.
template <class Element>
struct ScatterPlace {
  uint32_t fractions;
  float mask;

  static __device__ __forceinline__ uint32_t encode(float fraction) {
    return min(static_cast<uint32_t>(fraction * 65536.f + 0.5f), 65535u);
  }
  __device__ __forceinline__ void set(float ly, float lx, float m) {
    fractions = encode(ly) << 16 | encode(lx);
    mask = m;
  }
  // The bits behind the point of a number from 1 to 2.
  __device__ __forceinline__ float ly() const {
    return __uint_as_float(0x3f800000u | (fractions >> 16) << 7) - 1.f;
  }
  __device__ __forceinline__ float lx() const {
    return __uint_as_float(0x3f800000u | (fractions & 0xffffu) << 7) - 1.f;
  }
};
template <>
struct ScatterPlace<float> {
  float y, x, mask;

  __device__ __forceinline__ void set(float ly, float lx, float m) { y = ly, x = lx, mask = m; }
  __device__ __forceinline__ float ly() const { return y; }
  __device__ __forceinline__ float lx() const { return x; }
};

// [samples] are [tap][pixel of the tile].
template <typename Element>
struct ScatterShared {
  using Block = ChannelBlock<Element>;

  uint4* gradient;               // [Block::kVectors][samples]: gradient columns
  float4* window;                // [2][pixels]: half a block of channels each
  float4* dots;                  // [samples], where there are several blocks
  ScatterPlace<Element>* place;  // [samples]
  uint32_t* begins;              // [padded_bins]: of the bins' lists
  uint32_t* places;              // [kLengths], of order_bins
  uint16_t* list;                // [samples]: a bin's behind one another
  uint16_t* order;               // [padded_bins]: of the bins

  static DCN_HOST_DEVICE int64_t bytes(const BinWindow& window, const ScatterBlocks& blocks) {
    const int64_t sample_bytes = sizeof(Block) + sizeof(ScatterPlace<Element>) + sizeof(uint16_t) +
                                 (blocks.count > 1 ? sizeof(float4) : 0);
    return kScatterSamples * sample_bytes + window.pixels() * 2 * sizeof(float4) +
           kLengths * sizeof(uint32_t) +
           padded_bins(window.bins()) * (sizeof(uint32_t) + sizeof(uint16_t));
  }
  __device__ __forceinline__ ScatterShared(uint8_t* memory, const ScatterParams& params) {
    gradient = reinterpret_cast<uint4*>(memory);
    window = reinterpret_cast<float4*>(gradient + Block::kVectors * kScatterSamples);
    dots = window + 2 * params.window.pixels();
    place = reinterpret_cast<ScatterPlace<Element>*>(
        dots + (params.blocks.count > 1 ? kScatterSamples : 0));
    begins = reinterpret_cast<uint32_t*>(place + kScatterSamples);
    places = begins + padded_bins(params.window.bins());
    list = reinterpret_cast<uint16_t*>(places + kLengths);
    order = list + kScatterSamples;
  }

  // [samples]: bin and place in its list. In the window's memory, as long as lists are made.
  __device__ __forceinline__ uint32_t* landed() const {
    return reinterpret_cast<uint32_t*>(window);
  }
};

// CTAs that share lines of memory, those of the same pixels, are neighbours.
struct ScatterTile {
  int32_t n, p, q;  // first output pixel
  int32_t offset_group;
  int32_t bin_y, bin_x;  // of the window's first bin

  __device__ __forceinline__ explicit ScatterTile(const ScatterParams& params) {
    const ConvShape& shape = params.shape;
    const uint32_t tile = params.offset_groups.quotient(blockIdx.x);
    const uint32_t strip = params.tiles_across.quotient(tile);
    offset_group = blockIdx.x - tile * params.offset_groups.value;
    n = params.tiles_down.quotient(strip);
    p = (strip - n * params.tiles_down.value) * kScatterRows;
    q = (tile - strip * params.tiles_across.value) * kScatterColumns;
    bin_y = shape.origin_y(p, 0) - params.window.halo_rows;
    bin_x = shape.origin_x(q, 0) - params.window.halo_columns;
  }
};

}  // namespace dcn
