// The vector kernels of the CPU path: what they take, and the table by which they are called.
//
// kernels.cpp is compiled once for every instruction set. So that no function of an AVX object can
// ever be the copy that the rest of the program links, these files know neither torch nor the
// standard library's functions, and keep their names to themselves: a table of function pointers
// per instruction set is all that leaves an object.
#pragma once

#include <cstdint>

#include "../shape.h"

namespace dcn::cpu {

// 16-bit elements as they lie in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type of coordinates and sums.
template <typename Element>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <typename Element>
using AccType = typename AccOf<Element>::type;

constexpr int kMaxTilePixels = 128;

// A rectangle of output pixels of one image; pixel i is (p + i / width, q + i % width).
struct Tile {
  int32_t n, p, q, height, width;
  int32_t pixels() const { return height * width; }
};

// What the pixels of a tile sample, for one tap and one offset group.
template <typename Acc>
struct SamplePlan {
  alignas(64) Acc weight[4][kMaxTilePixels];  // of the corners, before the mask
  Acc mask[kMaxTilePixels], fill[kMaxTilePixels];
  Acc ly[kMaxTilePixels], lx[kMaxTilePixels];
  int32_t pixel[kMaxTilePixels];  // y0 * W + x0, corner 0; any value where corner 0 is absent
  uint32_t corners[kMaxTilePixels];
};

// Offset or mask, contiguous. Values have the type of the sums where `wide`, else that of the
// input.
struct SamplingMap {
  const void* data = nullptr;  // null: no mask
  bool wide = false;
};

struct PlanParams {
  ConvShape shape;
  SamplingMap offset, mask;
  Tile tile;
  int32_t tap, offset_group;
};

// Columns of one tap for channels that share an offset group: column[i][c] for every pixel i of the
// tile.
template <typename Element>
struct GatherParams {
  const SamplePlan<AccType<Element>>* plan;
  int32_t pixels, channels;
  const Element* image;  // NHWC, at the first of the channels
  int32_t pixel_stride;  // C
  int32_t row_stride;    // W, in pixels
  const Element* zeros;  // what an absent corner reads: at least `channels` zeros
  AccType<Element>* column;
  int64_t column_stride;
};

// As above, with the gradient of the columns as input: writes the columns, adds to the gradients of
// what was sampled.
template <typename Element>
struct DifferentiateParams {
  using Acc = AccType<Element>;
  GatherParams<Element> gather;
  const Acc* grad_column;  // strides as those of column
  Acc* grad_image;         // rows of an NHWC image, at the first of the channels; null: not wanted
  int32_t grad_first_row;  // the image row with which grad_image begins
  Acc* spill;   // where gradients of absent corners go: room for `channels` values, never read
  Acc* grad_y;  // [pixels] each; null: none of the three is wanted
  Acc* grad_x;
  Acc* grad_mask;
};

// dst[r][c] = src[r][c], or dst[c][r] where the name says transposed; strides in elements.
template <typename Src, typename Dst>
struct Transfer {
  const Src* src;
  int64_t src_stride;
  Dst* dst;
  int64_t dst_stride;
  int64_t rows, cols;
};

struct RowRange {
  int32_t begin, end;
};

template <typename Element>
struct Kernels {
  using Acc = AccType<Element>;
  void (*plan_samples)(const PlanParams&, SamplePlan<Acc>&);
  // Input rows that samples of the tile may reach: what a scatter writes lies within.
  RowRange (*reached_rows)(const ConvShape&, const SamplingMap& offset, const Tile&);
  void (*gather)(const GatherParams<Element>&);
  void (*differentiate)(const DifferentiateParams<Element>&);
  void (*transpose)(const Transfer<Element, Element>&);
  void (*widen)(const Transfer<Element, Acc>&);
  void (*widen_transposed)(const Transfer<Element, Acc>&);
  void (*narrow)(const Transfer<Acc, Element>&);
  void (*narrow_transposed)(const Transfer<Acc, Element>&);
  void (*copy_sums)(const Transfer<Acc, Acc>&);
  void (*transpose_sums)(const Transfer<Acc, Acc>&);
};

struct KernelTable {
  const char* capability;
  int vector_bytes;
  Kernels<double> f64;
  Kernels<float> f32;
  Kernels<Half> f16;
  Kernels<BFloat16> bf16;
};

extern const KernelTable kKernelsDEFAULT;
#if defined(__x86_64__)
extern const KernelTable kKernelsAVX2;
extern const KernelTable kKernelsAVX512;
#endif

}  // namespace dcn::cpu
