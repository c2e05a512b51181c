// The tiles of the scatter (kernels/scatter.cuh): output pixels, blocks of channels, and the window
// of bins where samples land.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fprop_tiles.h"
#include "fused_layout.h"

namespace dcn {

constexpr int kScatterRows = 8, kScatterColumns = 16;  // output pixels of a tile
constexpr int kScatterPixels = kScatterRows * kScatterColumns;
constexpr int kScatterThreads = 256;
constexpr int kScatterTaps = 9;  // at a time
constexpr int kScatterSamples = kScatterPixels * kScatterTaps;
constexpr int kBlockChannels = 8;                 // at a time
constexpr int kHalfSliceBytes = kSliceBytes / 2;  // of the gradient, that a lane's vectors are from

// Blocks of an offset group's channels: those of a block share their convolution group, too.
struct ScatterBlocks {
  int32_t of_segment;  // a segment (FusedLayout) has so many
  int32_t count;       // of an offset group
  int32_t halves;      // half slices of a convolution group's gradient

  DCN_HOST_DEVICE int32_t slices() const { return (halves + 1) / 2; }
};
DCN_HOST_DEVICE ScatterBlocks scatter_blocks(const FusedLayout& layout,
                                             const FusedLayout& grad_layout, int element_bytes) {
  ScatterBlocks blocks;
  blocks.of_segment = (layout.padded_segment + kBlockChannels - 1) / kBlockChannels;
  blocks.count = layout.offset_channels / layout.padded_segment * blocks.of_segment;
  blocks.halves =
      (grad_layout.group_channels * element_bytes + kHalfSliceBytes - 1) / kHalfSliceBytes;
  return blocks;
}

struct ScatterBlock {
  int32_t channel;   // first one, of the padded image
  int32_t channels;  // that are the caller's
  int32_t group;     // of the convolution
};
DCN_HOST_DEVICE ScatterBlock scatter_block(const FusedLayout& layout, const ScatterBlocks& blocks,
                                           int32_t offset_group, int32_t block) {
  // Mostly there is nothing to divide.
  const int32_t segment = blocks.of_segment == 1 ? block : block / blocks.of_segment;
  const int32_t inside = (block - segment * blocks.of_segment) * kBlockChannels;
  const int32_t left = layout.segment - inside;
  ScatterBlock at;
  at.channel = offset_group * layout.offset_channels + segment * layout.padded_segment + inside;
  at.channels = left < kBlockChannels ? left : kBlockChannels;
  at.group = layout.channels == layout.group_channels ? 0 : at.channel / layout.group_channels;
  return at;
}

// CTAs that a multiprocessor has room for. Many are better than large ones: what a warp does once a
// tile is half of all that it does (384 threads with a third of the taps each took 440 us instead
// of 364), and the others work while one meets.
constexpr int scatter_resident(FusedMath math) { return element_bytes(math) == 2 ? 3 : 2; }

// The tiles of all images, an offset group after the other: each CTA has some that follow one
// another. Of the weight gradient it leaves, for each of its offset groups, the sums over its
// tiles: units of a block of channels x a chunk of taps x a panel of output channels.
constexpr int kPanelChannels = 64;
constexpr int kUnitSums = kScatterTaps * kPanelChannels * kBlockChannels;

struct ScatterWork {
  int64_t tiles;           // of all images
  int32_t chunks, panels;  // of taps; of a convolution group's output channels
  int32_t units;           // of an offset group

  DCN_HOST_DEVICE int32_t unit(int32_t block, int32_t chunk, int32_t panel) const {
    return (block * chunks + chunk) * panels + panel;
  }
  // Of the transposed gradient, of a convolution group.
  DCN_HOST_DEVICE int32_t rows() const { return panels * kPanelChannels; }
};
inline ScatterWork scatter_work(const ConvShape& shape, int element_bytes) {
  const FusedLayout layout = fused_layout(shape, element_bytes);
  ScatterWork work;
  work.tiles = shape.N * tiles_of(shape.P, kScatterRows) * tiles_of(shape.Q, kScatterColumns);
  work.chunks = static_cast<int32_t>(tiles_of(shape.taps(), kScatterTaps));
  work.panels = static_cast<int32_t>(tiles_of(shape.output_channels_per_group(), kPanelChannels));
  work.units = scatter_blocks(layout, layout, element_bytes).count * work.chunks * work.panels;
  return work;
}

// The gradient by tiles, transposed, for 32 bits: [tiles, G, rows, pixels of a tile]. Zeros beyond
// the last output channel, and where a tile reaches beyond the output.
inline int64_t transposed_grad_bytes(const ConvShape& shape, int element_bytes) {
  const ScatterWork work = scatter_work(shape, element_bytes);
  return work.tiles * shape.G * work.rows() * kScatterPixels * element_bytes;
}
// What `ctas` CTAs leave. One after the other has the next offset group, or the same: CTA i has
// place i + d for offset group d.
inline int64_t scatter_partial_bytes(const ConvShape& shape, int element_bytes, int64_t ctas) {
  return (ctas + shape.D - 1) * scatter_work(shape, element_bytes).units * kUnitSums *
         int64_t{sizeof(float)};
}

// The sums of the input gradient. In 16 bits by blocks, as the image (plane_bytes): a row of a
// window is then one piece of memory. In 32 bits [N, H, W, layout.channels], so that they may be
// the gradient itself: there another pass costs more than the copy engine saves.
inline int64_t input_sum_bytes(const ConvShape& shape, int element_bytes) {
  const FusedLayout layout = fused_layout(shape, element_bytes);
  const int64_t channels =
      element_bytes == 2
          ? int64_t{shape.D} * kBlockChannels * scatter_blocks(layout, layout, element_bytes).count
          : layout.channels;
  return shape.input_pixels() * channels * int64_t{sizeof(float)};
}

// The image by blocks: [N, D, blocks, H, W] of kBlockChannels each, zeros where there are fewer. A
// tile's samples then meet few lines of memory.
inline int64_t plane_bytes(const ConvShape& shape, int element_bytes) {
  const FusedLayout layout = fused_layout(shape, element_bytes);
  const ScatterBlocks blocks = scatter_blocks(layout, layout, element_bytes);
  return shape.input_pixels() * shape.D * blocks.count * kBlockChannels * element_bytes;
}

// Of the packed weight: whole slices in 16 bits.
DCN_HOST_DEVICE int32_t packed_halves(const ScatterBlocks& blocks, int element_bytes) {
  return element_bytes == 2 ? 2 * blocks.slices() : blocks.halves;
}
inline int64_t packed_scatter_bytes(const ConvShape& shape, FusedMath math) {
  const int bytes = element_bytes(math);
  const ScatterBlocks blocks =
      scatter_blocks(fused_layout(shape, bytes), fused_layout(transposed(shape), bytes), bytes);
  return int64_t{shape.D} * blocks.count * packed_halves(blocks, bytes) * shape.taps() *
         weight_parts(math) * kBlockChannels * kHalfSliceBytes;
}

// Bins count top-left corners. The window has those of all samples without offset, and kHalo more
// on each side, or as many as kMostBins allow; the samples of other bins are added to memory one by
// one.
constexpr int kMostBins = 1020;
constexpr int kHalo = 3;

struct BinWindow {
  int32_t rows = 0, columns = 0;            // of bins
  int32_t halo_rows = 0, halo_columns = 0;  // before the first sample without offset

  DCN_HOST_DEVICE constexpr int32_t bins() const { return rows * columns; }
  // A bin's samples touch the pixel of the bin, the next one, and the two below.
  DCN_HOST_DEVICE constexpr int32_t pixels() const { return (rows + 1) * (columns + 1); }
};

inline BinWindow bin_window(const ConvShape& shape) {
  const auto span = [](int32_t pixels, int32_t stride, int32_t taps, int32_t dil) {
    return static_cast<int32_t>(
        std::min<int64_t>(int64_t{pixels - 1} * stride + int64_t{taps - 1} * dil + 1, kMostBins));
  };
  BinWindow window;
  window.rows = span(kScatterRows, shape.stride_h, shape.R, shape.dil_h);
  window.columns = span(kScatterColumns, shape.stride_w, shape.S, shape.dil_w);
  int32_t halo = kHalo;
  while (halo > 0 && (window.rows + 2 * halo) * (window.columns + 2 * halo) > kMostBins) --halo;
  window.halo_rows = window.halo_columns = halo;
  window.rows += 2 * halo;
  window.columns += 2 * halo;
  // Where they are too far apart, the middle of them.
  const auto cut = [](int32_t& length, int32_t& halo_length, int32_t most) {
    if (length <= most) return;
    halo_length -= (length - most) / 2;
    length = most;
  };
  constexpr int32_t kMiddle = 32;
  if (window.bins() > kMostBins) {
    cut(window.rows, window.halo_rows, std::max(kMiddle, kMostBins / window.columns));
    cut(window.columns, window.halo_columns, kMostBins / window.rows);
  }
  return window;
}

}  // namespace dcn
