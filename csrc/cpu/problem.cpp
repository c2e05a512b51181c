#include "problem.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace dcn::cpu {
namespace {

// Tiles for each thread at least, so that the last ones to finish do not wait long for each other.
constexpr int64_t kTilesPerThread = 4;

// Rows begin on cache lines, and not a multiple of 2 KiB apart: those would fall into few sets of a
// cache.
int64_t padded_stride(int64_t values) {
  constexpr int64_t kLine = 16, kSetPeriod = 512;
  const int64_t stride = (values + kLine - 1) / kLine * kLine;
  return stride % kSetPeriod == 0 ? stride + kLine : stride;
}

// Blocks of at most `max_values` a pixel, for tiles of at most `pixels`.
BlockList list_blocks(const ConvShape& shape, int64_t max_values, int32_t pixels) {
  BlockList list;
  for (const ColumnBlock& block : column_blocks(shape, max_values)) {
    BlockWork work{block, channel_runs(shape, block), padded_stride(block.gemm_k()), 0};
    work.group_stride = work.column_stride * pixels;
    list.column_values = std::max(list.column_values, work.group_stride * block.groups());
    list.blocks.push_back(std::move(work));
  }
  return list;
}

}  // namespace

Cut::Cut(const ConvShape& shape, int64_t bytes_of_sum, int64_t column_bytes, int64_t weight_bytes)
    : tiles(shape, kMaxTilePixels, at::get_num_threads() * kTilesPerThread) {
  const int32_t pixels = tiles.max_tile_pixels();
  const int64_t by_columns = column_bytes / bytes_of_sum / pixels;
  const int64_t by_weight = weight_bytes / bytes_of_sum / shape.gemm_n();
  list = list_blocks(shape, std::max<int64_t>(std::min(by_columns, by_weight), 16), pixels);
}

}  // namespace dcn::cpu
