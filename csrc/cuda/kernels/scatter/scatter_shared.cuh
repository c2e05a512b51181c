// What the phases of the scatter share: the tile of a CTA, and the parts of its shared memory.
#pragma once

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

  static constexpr bool kWgmma = sizeof(Element) == 2;
  static constexpr int kGradTileBytes = kWgmma ? kScatterPixels * kSliceBytes : 0;
  static constexpr int kWeightBytes = kWgmma ? kScatterTaps * kBlockChannels * kSliceBytes : 0;

  // Tiles of wgmma lie at whole KiB.
  static constexpr uint32_t kSlack = kWgmma ? 1024 - 16 : 0;

  // For the gradient of the weight, values are kept. What a single block needs one after the other
  // shares its memory.
  static DCN_HOST_DEVICE ScatterPlaces places(const BinWindow& window, const ScatterBlocks& blocks,
                                              bool with_weight) {
    const int32_t bins = padded_bins(window.bins());
    const int32_t values = with_weight ? kScatterSamples * sizeof(Block) : 0;
    const int32_t lists = kScatterSamples * sizeof(uint16_t) + bins * sizeof(uint16_t);
    const bool single = blocks.count == 1;
    ScatterPlaces at;
    at.grad_tile = 0;
    at.weights = at.grad_tile + kGradTileBytes;
    at.place = at.weights + (single ? 0 : kWeightBytes);
    at.gradient = at.place + kScatterSamples * sizeof(Place);
    at.window = at.gradient + kScatterSamples * sizeof(Block);
    at.landed = at.window + values;
    const int32_t window_end = at.window + window.pixels() * 2 * sizeof(float4);
    const int32_t landed_end = at.landed + kScatterSamples * sizeof(uint32_t);
    at.image = window_end > landed_end ? window_end : landed_end;
    at.dots = at.image + window.pixels() * sizeof(Block);
    at.lists = at.dots + (single ? 0 : kScatterSamples * sizeof(float4));
    at.lengths = at.lists + bins * sizeof(uint32_t);
    at.tap_place = at.lengths + kLengths * sizeof(uint32_t);
    at.astray = at.tap_place + kScatterTaps * sizeof(float2);
    at.end = at.astray + 4 * sizeof(int32_t);
    const bool in_image = single && lists <= at.dots - at.image;
    at.list = in_image ? at.image : at.end;
    at.order = at.list + kScatterSamples * sizeof(uint16_t);
    if (!in_image) at.end += lists;
    return at;
  }

  __device__ __forceinline__ ScatterShared(uint8_t* memory, const ScatterPlaces& places)
      : memory_(memory), places_(places) {}

  // Where wgmma is: the gradient's rows of 128 bytes, swizzled, and the weight's, which are read
  // before samples have places.
  __device__ __forceinline__ uint8_t* grad_tile() const { return at<uint8_t>(places_.grad_tile); }
  __device__ __forceinline__ uint8_t* weights() const { return at<uint8_t>(places_.weights); }
  // [Block::kVectors][samples]: gradient columns.
  __device__ __forceinline__ uint4* gradient() const { return at<uint4>(places_.gradient); }
  static constexpr int kVectorChannels = kBlockChannels / Block::kVectors;
  __device__ __forceinline__ void load_gradient(uint32_t sample, int vector, float* value) const {
    const uint4 loaded = gradient()[vector * kScatterSamples + sample];
    const auto& each = reinterpret_cast<const Vector<Element, kVectorChannels>&>(loaded);
#pragma unroll
    for (int c = 0; c < kVectorChannels; ++c) value[c] = widen(each.lane[c]);
  }
  __device__ __forceinline__ void load_gradient(uint32_t sample,
                                                float (&value)[kBlockChannels]) const {
#pragma unroll
    for (int v = 0; v < Block::kVectors; ++v) {
      load_gradient(sample, v, value + v * kVectorChannels);
    }
  }
  // [pixels][2]: half a block of channels each. While samples are made, their values for the weight
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
  // [padded_bins]: BinList; numbers of samples at first.
  __device__ __forceinline__ uint32_t* lists() const { return at<uint32_t>(places_.lists); }
  // [kLengths], of order_bins.
  __device__ __forceinline__ uint32_t* lengths() const { return at<uint32_t>(places_.lengths); }
  // [kScatterTaps]: from tap 0 of the kernel, without offsets.
  __device__ __forceinline__ float2* tap_place() const { return at<float2>(places_.tap_place); }
  // How many samples the window has missed of late, and sums of ScatterSeeker.
  __device__ __forceinline__ int32_t* astray() const { return at<int32_t>(places_.astray); }
  // [samples]: a bin's behind one another.
  __device__ __forceinline__ uint16_t* list() const { return at<uint16_t>(places_.list); }
  // [padded_bins]: of the bins.
  __device__ __forceinline__ uint16_t* order() const { return at<uint16_t>(places_.order); }
  // Behind all this, if the kernel has asked for more.
  static constexpr int kBarrierBytes = 2 * sizeof(uint64_t);
  __device__ __forceinline__ uint64_t* barriers() const { return at<uint64_t>(places_.end); }

 private:
  template <typename T>
  __device__ __forceinline__ T* at(int32_t place) const {
    return reinterpret_cast<T*>(memory_ + place);
  }
  uint8_t* const memory_;
  const ScatterPlaces& places_;
};

constexpr int kScatterStaticBytes = 1024;  // of shared memory, at most
// In per cent, as kFusedCarveout: the CTAs that fit want all that there is.
constexpr int kScatterCarveout = 100;

// The tile of a CTA. It lies in shared memory: registers are few.
struct ScatterTile {
  int32_t n, p, q;  // first output pixel
  int32_t offset_group;
  int32_t number;        // among the tiles of all images
  int32_t bin_y, bin_x;  // of the window's first bin
  int64_t first_plane;   // that of block 0
  int64_t grad;          // of the first output pixel, element of the gradient

  __device__ __forceinline__ ScatterBlock block(const ScatterParams& params, int32_t number) const {
    return scatter_block(params.layout, params.blocks, offset_group, number);
  }
  // Of a block of channels, the first pixel of the image.
  __device__ __forceinline__ int64_t plane(const ScatterParams& params, int32_t block) const {
    return first_plane + block * int64_t{params.shape.H * params.shape.W};
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
    first_plane = (int64_t{n} * shape.D + offset_group) * params.blocks.count * (shape.H * shape.W);
    grad = (int64_t{n} * shape.output_pixels_per_image() + p * shape.Q + q) *
           params.grad_layout.channels;
  }
};

// Of a block of a tile's image, the sums of the input gradient (input_sum_bytes).
struct InputSums {
  float* first;   // of the first pixel
  int32_t pixel;  // from one to the next

  template <typename Element>
  static __device__ __forceinline__ InputSums of(const ScatterParams& params,
                                                 const ScatterTile& tile, int32_t block) {
    if constexpr (ScatterShared<Element>::kWgmma) {
      return {params.grad_input + tile.plane(params, block) * kBlockChannels, kBlockChannels};
    } else {
      const int64_t image = int64_t{tile.n} * params.shape.H * params.shape.W;
      return {
          params.grad_input + image * params.layout.channels + tile.block(params, block).channel,
          params.layout.channels};
    }
  }
};

}  // namespace dcn
