#include "weights.h"

#include <ATen/Parallel.h>

namespace dcn::cpu {
namespace {

// Values that are worth the start of another thread.
constexpr int64_t kGrainValues = 1 << 15;

// The part of row k of the weight, taps x channels, that belongs to a block.
template <typename Element>
WeightView<Element> row_of(const ConvShape& shape, WeightView<Element> weight,
                           const ColumnBlock& block, int64_t k) {
  const int64_t first =
      weight.channels_last
          ? int64_t{block.tap_begin} * shape.channels_per_group() + block.channel_begin
          : int64_t{block.channel_begin} * shape.taps() + block.tap_begin;
  return {weight.data + k * shape.gemm_k() + first, weight.channels_last};
}

// Calls body(block, group of the block, k within the group) for every row of every block, in
// parallel.
template <typename Body>
void for_each_row(const ConvShape& shape, const BlockList& list, const Body& body) {
  for (const BlockWork& work : list.blocks) {
    const ColumnBlock& block = work.block;
    const int64_t n = shape.gemm_n();
    at::parallel_for(0, block.groups() * n, kGrainValues / block.gemm_k() + 1,
                     [&](int64_t begin, int64_t end) {
                       for (int64_t row = begin; row < end; ++row) {
                         body(block, static_cast<int32_t>(row / n), row % n);
                       }
                     });
  }
}

}  // namespace

template <typename Element>
void pack_forward(const Problem<Element>& problem, WeightView<const Element> weight,
                  AccType<Element>* packed) {
  const ConvShape& shape = problem.shape;
  const int64_t n = shape.gemm_n(), k = shape.gemm_k();
  const int64_t channels = shape.channels_per_group(), taps = shape.taps();
  // A unit is [n, taps] of one channel, or [n, channels] of one tap: whichever is contiguous.
  const int64_t units = weight.channels_last ? taps : channels;
  const int64_t unit_cols = weight.channels_last ? channels : taps;
  const int64_t dst_stride = weight.channels_last ? n : channels * n;
  const int64_t unit_step = weight.channels_last ? channels * n : n;
  at::parallel_for(
      0, shape.G * units, kGrainValues / (n * unit_cols) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t group = i / units, unit = i % units;
          problem.kernels->widen_transposed({weight.data + group * n * k + unit * unit_cols, k,
                                             packed + group * n * k + unit * unit_step, dst_stride,
                                             n, unit_cols});
        }
      });
}

template <typename Element>
void pack_backward(const Problem<Element>& problem, const BlockList& list,
                   WeightView<const Element> weight, AccType<Element>* packed) {
  const ConvShape& shape = problem.shape;
  for_each_row(shape, list, [&](const ColumnBlock& block, int32_t group, int64_t k) {
    const int64_t row = (block.group_begin + group) * int64_t{shape.gemm_n()} + k;
    const auto from = row_of(shape, weight, block, row);
    auto* to = packed + packed_offset(shape, block, group) + k * block.gemm_k();
    if (from.channels_last) {
      problem.kernels->widen({from.data, shape.channels_per_group(), to, block.channels(),
                              block.taps(), block.channels()});
    } else {
      problem.kernels->widen_transposed(
          {from.data, shape.taps(), to, block.channels(), block.channels(), block.taps()});
    }
  });
}

template <typename Element>
void unpack_gradient(const Problem<Element>& problem, const BlockList& list,
                     const AccType<Element>* packed, int64_t parts, WeightView<Element> gradient) {
  using Acc = AccType<Element>;
  const ConvShape& shape = problem.shape;
  const int64_t part_size = int64_t{shape.K} * shape.gemm_k();
  for_each_row(shape, list, [&](const ColumnBlock& block, int32_t group, int64_t k) {
    const Acc* from = packed + packed_offset(shape, block, group) + k * block.gemm_k();
    std::vector<Acc> sum(from, from + block.gemm_k());
    for (int64_t part = 1; part < parts; ++part) {
      const Acc* addend = from + part * part_size;
      for (int32_t i = 0; i < block.gemm_k(); ++i) sum[i] += addend[i];
    }
    const int64_t row = (block.group_begin + group) * int64_t{shape.gemm_n()} + k;
    const auto to = row_of(shape, gradient, block, row);
    if (to.channels_last) {
      problem.kernels->narrow({sum.data(), block.channels(), to.data, shape.channels_per_group(),
                               block.taps(), block.channels()});
    } else {
      problem.kernels->narrow_transposed(
          {sum.data(), block.channels(), to.data, shape.taps(), block.taps(), block.channels()});
    }
  });
}

#define DCN_INSTANTIATE(Element)                                                 \
  template void pack_forward(const Problem<Element>&, WeightView<const Element>, \
                             AccType<Element>*);                                 \
  template void pack_backward(const Problem<Element>&, const BlockList&,         \
                              WeightView<const Element>, AccType<Element>*);     \
  template void unpack_gradient(const Problem<Element>&, const BlockList&,       \
                                const AccType<Element>*, int64_t, WeightView<Element>);
DCN_INSTANTIATE(double)
DCN_INSTANTIATE(float)
DCN_INSTANTIATE(Half)
DCN_INSTANTIATE(BFloat16)
#undef DCN_INSTANTIATE

}  // namespace dcn::cpu
