// What the phases of the scatter share: the tile of a CTA, and the parts of its shared memory.
#pragma once

#include <algorithm>

#include "../fused/fused_samples.cuh"
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
struct alignas(8) ScatterPlace {
  uint32_t fractions;
  float mask;

  // The last 16 bits of a number from 128 to 129, whose first ones are known.
  static constexpr float kFirst = 128.f;
  static constexpr uint32_t kFirstBits = 0x43000000u;
  __device__ __forceinline__ void set(float ly, float lx, float m) {
    fractions = __byte_perm(__float_as_uint(__fadd_rd(lx, kFirst)),
                            __float_as_uint(__fadd_rd(ly, kFirst)), 0x5410);
    mask = m;
  }
  __device__ __forceinline__ float ly() const {
    return __uint_as_float(__byte_perm(fractions, kFirstBits, 0x7632)) - kFirst;
  }
  __device__ __forceinline__ float lx() const {
    return __uint_as_float(__byte_perm(fractions, kFirstBits, 0x7610)) - kFirst;
  }
};
template <>
struct ScatterPlace<float> {
  float y, x, mask;

  __device__ __forceinline__ void set(float ly, float lx, float m) { y = ly, x = lx, mask = m; }
  __device__ __forceinline__ float ly() const { return y; }
  __device__ __forceinline__ float lx() const { return x; }
};

// [samples] are [tap][pixel of the tile]. Where a part begins is found from the kernel's parameters
// each time, since pointers would take registers.
template <typename Element>
class ScatterShared {
 public:
  using Block = ChannelBlock<Element>;
  using Place = ScatterPlace<Element>;

  // For the gradient of the weight, values are kept.
  static ScatterPlaces places(const BinWindow& window, const ScatterBlocks& blocks,
                              bool with_weight) {
    const int32_t bins = padded_bins(window.bins());
    const int32_t values = with_weight ? kScatterSamples * sizeof(Block) : 0;
    ScatterPlaces at;
    at.window = kScatterSamples * sizeof(Block);
    at.landed = at.window + values;
    at.image = std::max<int32_t>(at.window + window.pixels() * 2 * sizeof(float4),
                                 at.landed + kScatterSamples * sizeof(uint32_t));
    at.dots = at.image + window.pixels() * sizeof(Block);
    at.place = at.dots + (blocks.count > 1 ? kScatterSamples * sizeof(float4) : 0);
    at.begins = at.place + kScatterSamples * sizeof(Place);
    at.lengths = at.begins + bins * sizeof(uint32_t);
    at.tap_place = at.lengths + kLengths * sizeof(uint32_t);
    at.list = at.tap_place + kScatterTaps * sizeof(float2);
    at.order = at.list + kScatterSamples * sizeof(uint16_t);
    at.end = at.order + bins * sizeof(uint16_t);
    return at;
  }

  __device__ __forceinline__ ScatterShared(uint8_t* memory, const ScatterPlaces& places)
      : memory_(memory), places_(places) {}

  // [Block::kVectors][samples]: gradient columns.
  __device__ __forceinline__ uint4* gradient() const { return at<uint4>(0); }
  __device__ __forceinline__ void load_gradient(uint32_t sample,
                                                float (&value)[kBlockChannels]) const {
    Block block;
#pragma unroll
    for (int v = 0; v < Block::kVectors; ++v) {
      reinterpret_cast<uint4*>(&block)[v] = gradient()[v * kScatterSamples + sample];
    }
#pragma unroll
    for (int c = 0; c < kBlockChannels; ++c) value[c] = widen(block.lane[c]);
  }
  // [2][pixels]: half a block of channels each. While samples are made, their values for the weight
  // gradient.
  __device__ __forceinline__ float4* window() const { return at<float4>(places_.window); }
  __device__ __forceinline__ Element* values() const { return at<Element>(places_.window); }
  // [samples]: bin and place in its list. Also in the window's memory.
  __device__ __forceinline__ uint32_t* landed() const { return at<uint32_t>(places_.landed); }
  // [Block::kVectors][pixels] of the window; zeros outside.
  __device__ __forceinline__ uint4* image() const { return at<uint4>(places_.image); }
  // [samples], where there are several blocks.
  __device__ __forceinline__ float4* dots() const { return at<float4>(places_.dots); }
  __device__ __forceinline__ Place* place() const { return at<Place>(places_.place); }  // [samples]
  // [padded_bins]: of the bins' lists.
  __device__ __forceinline__ uint32_t* begins() const { return at<uint32_t>(places_.begins); }
  // [kLengths], of order_bins.
  __device__ __forceinline__ uint32_t* lengths() const { return at<uint32_t>(places_.lengths); }
  // [kScatterTaps]: from tap 0 of the kernel, without offsets.
  __device__ __forceinline__ float2* tap_place() const { return at<float2>(places_.tap_place); }
  // [samples]: a bin's behind one another.
  __device__ __forceinline__ uint16_t* list() const { return at<uint16_t>(places_.list); }
  // [padded_bins]: of the bins.
  __device__ __forceinline__ uint16_t* order() const { return at<uint16_t>(places_.order); }

 private:
  template <typename T>
  __device__ __forceinline__ T* at(int32_t place) const {
    return reinterpret_cast<T*>(memory_ + place);
  }
  uint8_t* const memory_;
  const ScatterPlaces& places_;
};

// The tile of a CTA. It lies in shared memory: registers are few.
struct ScatterTile {
  int32_t n, p, q;  // first output pixel
  int32_t offset_group;
  int32_t number;        // among the tiles of all images
  int32_t bin_y, bin_x;  // of the window's first bin

  __device__ __forceinline__ ScatterBlock block(const ScatterParams& params, int32_t number) const {
    return scatter_block(params.layout, params.blocks, offset_group, number);
  }
  __device__ __forceinline__ void find(const ScatterParams& params, int32_t item) {
    const ConvShape& shape = params.shape;
    offset_group = params.tiles.quotient(item);
    number = item - offset_group * params.tiles.value;
    const uint32_t strip = params.tiles_across.quotient(number);
    n = params.tiles_down.quotient(strip);
    p = (strip - n * params.tiles_down.value) * kScatterRows;
    q = (number - strip * params.tiles_across.value) * kScatterColumns;
    bin_y = shape.origin_y(p, 0) - params.window.halo_rows;
    bin_x = shape.origin_x(q, 0) - params.window.halo_columns;
  }
};

}  // namespace dcn
