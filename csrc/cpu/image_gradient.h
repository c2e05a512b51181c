// The gradient of the input, summed by several threads without races and in an order that is always
// the same.
//
// A thread owns a contiguous range of tiles. Of the images that lie wholly within it, it alone
// writes the gradient. Of an image that it shares, it sums into a window of its own: the rows that
// the samples of its tiles reach, for any offsets. Windows are added when all threads are done, in
// the order of the tiles.
#pragma once

#include <vector>

#include "problem.h"

namespace dcn::cpu {

template <typename Element>
struct GradientWindow {
  using Acc = AccType<Element>;
  int32_t image = 0;
  RowRange rows{0, 0};
  bool whole = true;  // no other thread has tiles of this image
  Buffer<Acc> memory;
  Acc* sums = nullptr;  // [rows, W, C]: in `memory`, or the gradient itself where its type and
                        // layout allow it
};

// A zeroed window for tiles [begin, end) of the grid, all of one image.
template <typename Element>
GradientWindow<Element> open_window(const Problem<Element>& problem, const TileGrid& grid,
                                    Range tiles, ImageView<Element> gradient);

// Writes the gradient of a whole image.
template <typename Element>
void close_window(const Problem<Element>& problem, const GradientWindow<Element>& window,
                  ImageView<Element> gradient);

// Writes the gradients of shared images: sums of their windows, which are in the order of the
// tiles.
template <typename Element>
void merge_windows(const Problem<Element>& problem,
                   const std::vector<GradientWindow<Element>>& windows,
                   ImageView<Element> gradient);

}  // namespace dcn::cpu
