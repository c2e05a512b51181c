// NOTE [backward on a CPU]
//
// Threads own contiguous ranges of tiles. As in the forward pass a tile runs through the columns in
// blocks, once:
//
//   load           the tile's part of the output gradient, as [pixels, K] and as [K, pixels]
//   for each block:
//     multiply       grad columns [pixels, block] = gradient [pixels, K] * weight [K, block]
//     differentiate  the four corners of a sample are read once, and give the column, the four dot
//                    products <grad column, corner> of which offset and mask gradients are made,
//                    and the corners' own gradients (columns.h)
//     multiply       weight gradient [K, block] += gradient [K, pixels] * columns [pixels, block]
//   store          offset and mask gradients of the tile
//
// Columns and their gradient live in the second-level cache, beside a block of the weight and one
// of its gradient. Weight gradients are summed per thread, and then over the threads in their
// order; input gradients as image_gradient.h says. So there are no races, and for a fixed number of
// threads always the same bits.
//
// Bound: two multiplications of 2 * K operations a column value each.
#include "backward.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "gemm.h"
#include "image_gradient.h"

namespace dcn::cpu {
namespace {

// Bytes of a column block, and of a weight block: there are two of each, so half as much as in the
// forward pass.
constexpr int64_t kColumnBytes = 128 << 10;
constexpr int64_t kWeightBytes = 256 << 10;

template <typename Element>
class BackwardTask {
 public:
  using Acc = AccType<Element>;

  BackwardTask(const BackwardCall<Element>& call, const Cut& cut, const Acc* weight,
               Acc* grad_weight)
      : call_(call),
        shape_(call.problem.shape),
        kernels_(*call.problem.kernels),
        list_(cut.list),
        weight_(weight),
        grad_weight_(grad_weight),
        pixels_(cut.tiles.max_tile_pixels()),
        pixels_stride_(pixels_ + 16),
        column_(list_.column_values),
        grad_column_(list_.column_values),
        grad_rows_(pixels_ * shape_.K),
        grad_cols_(pixels_stride_ * shape_.K),
        spill_(shape_.C),
        sampling_(call.wants_sampling() ? 3 * int64_t{samples()} * pixels_ : 0),
        plan_(1) {
    std::fill_n(spill_.data(), shape_.C, Acc(0));
  }

  void run(const Tile& tile, const GradientWindow<Element>& window) const {
    load(tile);
    if (call_.wants_sampling()) {
      std::fill_n(sampling_.data(), 3 * int64_t{samples()} * tile.pixels(), Acc(0));
    }
    for (const BlockWork& work : list_.blocks) {
      if (call_.wants_grad_columns()) multiply_by_weight(work, tile);
      sample(work, tile, window);
      if (grad_weight_) multiply_by_columns(work, tile);
    }
    store(call_.grad_offset, tile, 2, 0);
    store(call_.grad_mask, tile, 1, 2);
  }

 private:
  int32_t samples() const { return shape_.D * shape_.taps(); }

  // Gradient of y (0), x (1) or mask (2) for a tap of an offset group: [pixels].
  Acc* sampling_gradient(int64_t index, int which, const Tile& tile) const {
    return sampling_.data() + (3 * index + which) * tile.pixels();
  }

  void load(const Tile& tile) const {
    const int64_t plane = shape_.output_pixels_per_image();
    const Element* image = call_.grad.data + int64_t{tile.n} * plane * shape_.K;
    for (int32_t h = 0; h < tile.height; ++h) {
      const int64_t pixel = int64_t{tile.p + h} * shape_.Q + tile.q;
      const int64_t first = int64_t{h} * tile.width;
      if (call_.grad.channels_last) {
        kernels_.widen({image + pixel * shape_.K, shape_.K, grad_rows_.data() + first * shape_.K,
                        shape_.K, tile.width, shape_.K});
      } else {
        kernels_.widen({image + pixel, plane, grad_cols_.data() + first, pixels_stride_, shape_.K,
                        tile.width});
      }
    }
    if (call_.grad.channels_last) {
      kernels_.transpose_sums({grad_rows_.data(), shape_.K, grad_cols_.data(), pixels_stride_,
                               tile.pixels(), shape_.K});
    } else {
      kernels_.transpose_sums({grad_cols_.data(), pixels_stride_, grad_rows_.data(), shape_.K,
                               shape_.K, tile.pixels()});
    }
  }

  void multiply_by_weight(const BlockWork& work, const Tile& tile) const {
    const ColumnBlock& block = work.block;
    const int64_t n = shape_.gemm_n();
    for (int32_t group = 0; group < block.groups(); ++group) {
      gemm({tile.pixels(), block.gemm_k(), n},
           {grad_rows_.data() + (block.group_begin + group) * n, shape_.K},
           {weight_ + packed_offset(shape_, block, group), block.gemm_k()},
           {grad_column_.data() + group * work.group_stride, work.column_stride},
           /*accumulate=*/false);
    }
  }

  void sample(const BlockWork& work, const Tile& tile,
              const GradientWindow<Element>& window) const {
    const BlockVisit<Element> visit{call_.problem, work, tile, column_.data()};
    const auto differentiate = [&](const GatherParams<Element>& gather, int32_t tap,
                                   int32_t offset_group) {
      if (!call_.wants_grad_columns()) return kernels_.gather(gather);
      DifferentiateParams<Element> params{};
      params.gather = gather;
      params.grad_column = grad_column_.data() + (gather.column - column_.data());
      params.spill = spill_.data();
      if (window.sums) {
        const int64_t image = int64_t{window.image} * shape_.H * shape_.W * shape_.C;
        params.grad_image = window.sums + (gather.image - (call_.problem.image + image));
        params.grad_first_row = window.rows.begin;
      }
      if (call_.wants_sampling()) {
        const int64_t index = int64_t{offset_group} * shape_.taps() + tap;
        params.grad_y = sampling_gradient(index, 0, tile);
        params.grad_x = sampling_gradient(index, 1, tile);
        params.grad_mask = sampling_gradient(index, 2, tile);
      }
      kernels_.differentiate(params);
    };
    visit.for_each_run(*plan_.data(), differentiate);
  }

  void multiply_by_columns(const BlockWork& work, const Tile& tile) const {
    const ColumnBlock& block = work.block;
    const int64_t n = shape_.gemm_n();
    for (int32_t group = 0; group < block.groups(); ++group) {
      gemm({n, block.gemm_k(), tile.pixels()},
           {grad_cols_.data() + (block.group_begin + group) * n * pixels_stride_, pixels_stride_},
           {column_.data() + group * work.group_stride, work.column_stride},
           {grad_weight_ + packed_offset(shape_, block, group), block.gemm_k()},
           /*accumulate=*/true);
    }
  }

  // `maps` consecutive gradients of every sample, beginning with that numbered `first`.
  void store(const SamplingGradient& gradient, const Tile& tile, int32_t maps, int first) const {
    if (!gradient.data) return;
    const int64_t plane = shape_.output_pixels_per_image();
    const int64_t image = int64_t{tile.n} * maps * samples() * plane;
    const int64_t pixel = int64_t{tile.p} * shape_.Q + tile.q;
    for (int64_t index = 0; index < samples(); ++index) {
      for (int32_t map = 0; map < maps; ++map) {
        const Acc* from = sampling_gradient(index, first + map, tile);
        const int64_t to = image + (maps * index + map) * plane + pixel;
        if (gradient.wide) {
          kernels_.copy_sums({from, tile.width, static_cast<Acc*>(gradient.data) + to, shape_.Q,
                              tile.height, tile.width});
        } else {
          kernels_.narrow({from, tile.width, static_cast<Element*>(gradient.data) + to, shape_.Q,
                           tile.height, tile.width});
        }
      }
    }
  }

  const BackwardCall<Element>& call_;
  const ConvShape& shape_;
  const Kernels<Element>& kernels_;
  const BlockList& list_;
  const Acc* weight_;
  Acc* grad_weight_;
  int64_t pixels_, pixels_stride_;
  Buffer<Acc> column_, grad_column_, grad_rows_, grad_cols_, spill_, sampling_;
  Buffer<SamplePlan<Acc>> plan_;
};

// Calls body(tiles) for the parts of a range of tiles that belong to one image each.
template <typename Body>
void for_each_image(const TileGrid& grid, Range range, const Body& body) {
  for (int64_t begin = range.begin; begin < range.end;) {
    const int64_t image_end = (begin / grid.per_image() + 1) * grid.per_image();
    const int64_t end = std::min(image_end, range.end);
    body(Range{begin, end});
    begin = end;
  }
}

}  // namespace

template <typename Element>
void run_backward(const BackwardCall<Element>& call) {
  using Acc = AccType<Element>;
  const Problem<Element>& problem = call.problem;
  const ConvShape& shape = problem.shape;
  const Cut cut(shape, sizeof(Acc), kColumnBytes, kWeightBytes);
  const TileGrid& grid = cut.tiles;
  const int64_t tasks = std::min<int64_t>(at::get_num_threads(), grid.size());

  const int64_t weight_values = int64_t{shape.K} * shape.gemm_k();
  Buffer<Acc> weight(weight_values);
  if (call.wants_grad_columns()) pack_backward(problem, cut.list, call.weight, weight.data());
  const bool wants_weight = call.grad_weight.data;
  Buffer<Acc> grad_weight(wants_weight ? tasks * weight_values : 0);

  std::vector<std::vector<GradientWindow<Element>>> shared(tasks);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Acc* own = wants_weight ? grad_weight.data() + i * weight_values : nullptr;
      if (own) std::fill_n(own, weight_values, Acc(0));
      const BackwardTask<Element> task(call, cut, weight.data(), own);
      for_each_image(grid, part_of(grid.size(), tasks, i), [&](Range tiles) {
        GradientWindow<Element> window;
        if (call.grad_input.data) window = open_window(problem, grid, tiles, call.grad_input);
        for (int64_t t = tiles.begin; t < tiles.end; ++t) task.run(grid[t], window);
        if (!call.grad_input.data) return;
        if (window.whole) {
          close_window(problem, window, call.grad_input);
        } else {
          shared[i].push_back(std::move(window));
        }
      });
    }
  });

  std::vector<GradientWindow<Element>> windows;
  for (auto& of_task : shared) {
    for (auto& window : of_task) windows.push_back(std::move(window));
  }
  merge_windows(problem, windows, call.grad_input);
  if (wants_weight) unpack_gradient(problem, cut.list, grad_weight.data(), tasks, call.grad_weight);
}

template void run_backward(const BackwardCall<double>&);
template void run_backward(const BackwardCall<float>&);
template void run_backward(const BackwardCall<Half>&);
template void run_backward(const BackwardCall<BFloat16>&);

}  // namespace dcn::cpu
