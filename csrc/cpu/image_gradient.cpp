#include "image_gradient.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <type_traits>

namespace dcn::cpu {
namespace {

// Rows of one image, as sums, to the gradient's type and layout.
template <typename Element>
void write_rows(const Problem<Element>& problem, ImageView<Element> gradient, int32_t image,
                RowRange rows, const AccType<Element>* sums) {
  const ConvShape& shape = problem.shape;
  const int64_t plane = int64_t{shape.H} * shape.W;
  const int64_t pixel = int64_t{rows.begin} * shape.W;
  const int64_t pixels = int64_t{rows.end - rows.begin} * shape.W;
  Element* to = gradient.data + image * plane * shape.C;
  if (gradient.channels_last) {
    problem.kernels->narrow({sums, shape.C, to + pixel * shape.C, shape.C, pixels, shape.C});
  } else {
    problem.kernels->narrow_transposed({sums, shape.C, to + pixel, plane, pixels, shape.C});
  }
}

template <typename Element>
RowRange rows_of_tiles(const Problem<Element>& problem, const TileGrid& grid, Range tiles) {
  RowRange all{problem.shape.H, 0};
  for (int64_t i = tiles.begin; i < tiles.end; ++i) {
    const RowRange rows = problem.kernels->reached_rows(problem.shape, problem.offset, grid[i]);
    if (rows.begin == rows.end) continue;
    all = {std::min(all.begin, rows.begin), std::max(all.end, rows.end)};
  }
  return all.begin < all.end ? all : RowRange{0, 0};
}

}  // namespace

template <typename Element>
GradientWindow<Element> open_window(const Problem<Element>& problem, const TileGrid& grid,
                                    Range tiles, ImageView<Element> gradient) {
  using Acc = AccType<Element>;
  const ConvShape& shape = problem.shape;
  GradientWindow<Element> window;
  window.image = grid[tiles.begin].n;
  window.whole = tiles.end - tiles.begin == grid.per_image();
  window.rows = window.whole ? RowRange{0, shape.H} : rows_of_tiles(problem, grid, tiles);
  const int64_t row_values = int64_t{shape.W} * shape.C;
  const int64_t values = (window.rows.end - window.rows.begin) * row_values;
  if constexpr (std::is_same_v<Element, Acc>) {
    if (window.whole && gradient.channels_last) {
      window.sums = gradient.data + window.image * shape.H * row_values;
    }
  }
  if (!window.sums) {
    window.memory = Buffer<Acc>(values);
    window.sums = window.memory.data();
  }
  std::fill_n(window.sums, values, Acc(0));
  return window;
}

template <typename Element>
void close_window(const Problem<Element>& problem, const GradientWindow<Element>& window,
                  ImageView<Element> gradient) {
  if (window.memory.data()) write_rows(problem, gradient, window.image, window.rows, window.sums);
}

template <typename Element>
void merge_windows(const Problem<Element>& problem,
                   const std::vector<GradientWindow<Element>>& windows,
                   ImageView<Element> gradient) {
  using Acc = AccType<Element>;
  const ConvShape& shape = problem.shape;
  const int64_t row_values = int64_t{shape.W} * shape.C;
  for (size_t first = 0, last = 0; first < windows.size(); first = last) {
    while (last < windows.size() && windows[last].image == windows[first].image) ++last;
    at::parallel_for(0, shape.H, 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> sums(row_values);
      for (int32_t row = static_cast<int32_t>(begin); row < end; ++row) {
        std::fill(sums.begin(), sums.end(), Acc(0));
        for (size_t i = first; i < last; ++i) {
          const RowRange rows = windows[i].rows;
          if (row < rows.begin || row >= rows.end) continue;
          const Acc* addend = windows[i].sums + (row - rows.begin) * row_values;
          for (int64_t j = 0; j < row_values; ++j) sums[j] += addend[j];
        }
        write_rows(problem, gradient, windows[first].image, {row, row + 1}, sums.data());
      }
    });
  }
}

#define DCN_INSTANTIATE(Element)                                                                \
  template GradientWindow<Element> open_window(const Problem<Element>&, const TileGrid&, Range, \
                                               ImageView<Element>);                             \
  template void close_window(const Problem<Element>&, const GradientWindow<Element>&,           \
                             ImageView<Element>);                                               \
  template void merge_windows(const Problem<Element>&,                                          \
                              const std::vector<GradientWindow<Element>>&, ImageView<Element>);
DCN_INSTANTIATE(double)
DCN_INSTANTIATE(float)
DCN_INSTANTIATE(Half)
DCN_INSTANTIATE(BFloat16)
#undef DCN_INSTANTIATE

}  // namespace dcn::cpu
