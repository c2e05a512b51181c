// What forward and backward share: the call in the form of raw pointers, its blocks, and the walk
// over a block's samples.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <vector>

#include "tiling.h"

namespace dcn::cpu {

// Uninitialised memory, aligned to cache lines.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : memory_(c10::GetCPUAllocator()->allocate(size * sizeof(T))) {}
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  c10::DataPtr memory_;
};

// One image is [H, W, C] in memory or [C, H, W].
template <typename Element>
struct ImageView {
  Element* data = nullptr;  // of all images
  bool channels_last = true;
};

template <typename Element>
struct Problem {
  ConvShape shape;
  const Kernels<Element>* kernels;
  const Element* image;  // [N, H, W, C]
  SamplingMap offset, mask;
  const Element* zeros;  // [C]
};

// A column block with everything that its walk needs.
struct BlockWork {
  ColumnBlock block;
  std::vector<ChannelRun> runs;
  int64_t column_stride;  // between the columns of two pixels
  int64_t group_stride;   // between the columns of two groups of the block
};

struct BlockList {
  std::vector<BlockWork> blocks;
  int64_t column_values = 0;  // room for the columns of the largest block
};

// A call's tiles, several for each thread, and the blocks that every tile runs through. A column
// block and a weight block of sums take at most the bytes given.
struct Cut {
  Cut(const ConvShape& shape, int64_t bytes_of_sum, int64_t column_bytes, int64_t weight_bytes);

  TileGrid tiles;
  BlockList list;
};

// Where a block's rows (forward) or columns (backward) of a packed weight matrix begin, for a group
// of the block.
inline int64_t packed_offset(const ConvShape& shape, const ColumnBlock& block, int32_t group) {
  return (block.first_value + int64_t{group} * block.gemm_k()) * shape.gemm_n();
}

template <typename Element>
struct BlockVisit {
  const Problem<Element>& problem;
  const BlockWork& work;
  const Tile& tile;
  AccType<Element>* column;

  GatherParams<Element> gather_params(const SamplePlan<AccType<Element>>& plan, int32_t tap,
                                      const ChannelRun& run) const {
    const ConvShape& shape = problem.shape;
    const ColumnBlock& block = work.block;
    GatherParams<Element> params;
    params.plan = &plan;
    params.pixels = tile.pixels();
    params.channels = run.channels;
    params.image = problem.image + int64_t{tile.n} * shape.H * shape.W * shape.C + run.channel;
    params.pixel_stride = shape.C;
    params.row_stride = shape.W;
    params.zeros = problem.zeros;
    params.column = column + run.group * work.group_stride + run.column +
                    (tap - block.tap_begin) * run.channels;
    params.column_stride = work.column_stride;
    return params;
  }

  // Calls visit(gather_params, tap, offset_group) for every run of channels and tap. A sample is
  // planned once; the taps of an offset group follow each other, because they sample the same
  // pixels.
  template <typename Visit>
  void for_each_run(SamplePlan<AccType<Element>>& plan, const Visit& visit) const {
    const std::vector<ChannelRun>& runs = work.runs;
    for (size_t first = 0, last = 0; first < runs.size(); first = last) {
      const int32_t offset_group = runs[first].offset_group;
      while (last < runs.size() && runs[last].offset_group == offset_group) ++last;
      for (int32_t tap = work.block.tap_begin; tap < work.block.tap_end; ++tap) {
        problem.kernels->plan_samples(
            {problem.shape, problem.offset, problem.mask, tile, tap, offset_group}, plan);
        for (size_t i = first; i < last; ++i) {
          visit(gather_params(plan, tap, runs[i]), tap, offset_group);
        }
      }
    }
  }
};

}  // namespace dcn::cpu
