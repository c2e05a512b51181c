#include "problem.h"

#include <algorithm>

namespace dcn::cpu {
namespace {

// Rows begin on cache lines, and not a multiple of 2 KiB apart: those would fall into few sets of a
// cache.
int64_t padded_stride(int64_t values) {
  constexpr int64_t kLine = 16, kSetPeriod = 512;
  const int64_t stride = (values + kLine - 1) / kLine * kLine;
  return stride % kSetPeriod == 0 ? stride + kLine : stride;
}

}  // namespace

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

}  // namespace dcn::cpu
