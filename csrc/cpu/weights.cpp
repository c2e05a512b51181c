#include "weights.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace dcn::cpu {
namespace {

// Values that are worth the start of another thread.
constexpr int64_t kGrainValues = 1 << 15;

// The weights of one run of channels with the taps of its block, for all output channels of its
// group: as a matrix of [n, taps, channels] it begins at `weight` elements into the weight, and at
// `packed` values into the packed matrix.
struct RunOfWeight {
  const ChannelRun* run;
  const ColumnBlock* block;
  int64_t weight, packed;
};

std::vector<RunOfWeight> runs_of_weight(const ConvShape& shape, const BlockList& list,
                                        bool channels_last) {
  std::vector<RunOfWeight> all;
  for (const BlockWork& work : list.blocks) {
    const ColumnBlock& block = work.block;
    for (const ChannelRun& run : work.runs) {
      const int64_t group = block.group_begin + run.group;
      const int64_t channel = run.channel - group * shape.channels_per_group();
      const int64_t within = channels_last
                                 ? block.tap_begin * int64_t{shape.channels_per_group()} + channel
                                 : channel * shape.taps() + block.tap_begin;
      const int64_t first_row = group * shape.gemm_n();
      all.push_back({&run, &block, first_row * shape.gemm_k() + within,
                     packed_offset(shape, block, run.group)});
    }
  }
  return all;
}

// Calls body(run, i) for i in [0, count(run)) of every run, in parallel.
template <typename Count, typename Body>
void for_each(const std::vector<RunOfWeight>& runs, int64_t grain, const Count& count,
              const Body& body) {
  std::vector<int64_t> ends;
  int64_t total = 0;
  for (const RunOfWeight& run : runs) ends.push_back(total += count(run));
  at::parallel_for(0, total, grain, [&](int64_t begin, int64_t end) {
    size_t index = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin();
    for (int64_t i = begin; i < end; ++i) {
      while (i >= ends[index]) ++index;
      body(runs[index], i - (ends[index] - count(runs[index])));
    }
  });
}

}  // namespace

template <typename Element>
void pack_forward(const Problem<Element>& problem, const BlockList& list, const Element* weight,
                  AccType<Element>* packed) {
  const ConvShape& shape = problem.shape;
  const int64_t n = shape.gemm_n();
  const auto runs = runs_of_weight(shape, list, /*channels_last=*/true);
  const int64_t panels = (n + kPanel - 1) / kPanel;
  const auto units = [&](const RunOfWeight& r) -> int64_t { return panels * r.block->taps(); };
  const int64_t grain = kGrainValues / (kPanel * shape.channels_per_offset_group()) + 1;
  for_each(runs, grain, units, [&](const RunOfWeight& r, int64_t i) {
    const int64_t tap = i / panels, k = i % panels * kPanel;
    const int64_t channels = r.run->channels, width = std::min(kPanel, n - k);
    const int64_t row = r.run->column + tap * channels;
    problem.kernels->widen_transposed(
        {weight + r.weight + tap * shape.channels_per_group() + k * shape.gemm_k(), shape.gemm_k(),
         packed + r.packed + k * r.block->gemm_k() + row * width, width, width, channels});
  });
}

template <typename Element>
void pack_backward(const Problem<Element>& problem, const BlockList& list, const Element* weight,
                   AccType<Element>* packed) {
  const ConvShape& shape = problem.shape;
  const auto runs = runs_of_weight(shape, list, /*channels_last=*/true);
  const auto rows = [&](const RunOfWeight&) -> int64_t { return shape.gemm_n(); };
  for_each(runs, kGrainValues / shape.gemm_k() + 1, rows, [&](const RunOfWeight& r, int64_t k) {
    const int64_t channels = r.run->channels;
    problem.kernels->widen({weight + r.weight + k * shape.gemm_k(), shape.channels_per_group(),
                            packed + r.packed + r.run->column + k * r.block->gemm_k(), channels,
                            r.block->taps(), channels});
  });
}

template <typename Element>
void unpack_gradient(const Problem<Element>& problem, const BlockList& list,
                     const AccType<Element>* packed, int64_t parts,
                     WeightGradient<Element> gradient) {
  using Acc = AccType<Element>;
  const ConvShape& shape = problem.shape;
  const int64_t part_size = int64_t{shape.K} * shape.gemm_k();
  const auto runs = runs_of_weight(shape, list, gradient.channels_last);
  const auto rows = [&](const RunOfWeight&) -> int64_t { return shape.gemm_n(); };
  for_each(runs, kGrainValues / shape.gemm_k() + 1, rows, [&](const RunOfWeight& r, int64_t k) {
    const int64_t taps = r.block->taps(), channels = r.run->channels;
    const Acc* from = packed + r.packed + r.run->column + k * r.block->gemm_k();
    std::vector<Acc> sum(from, from + taps * channels);
    for (int64_t part = 1; part < parts; ++part) {
      const Acc* addend = from + part * part_size;
      for (int64_t i = 0; i < taps * channels; ++i) sum[i] += addend[i];
    }
    Element* to = gradient.data + r.weight + k * shape.gemm_k();
    if (gradient.channels_last) {
      problem.kernels->narrow(
          {sum.data(), channels, to, shape.channels_per_group(), taps, channels});
    } else {
      problem.kernels->narrow_transposed({sum.data(), channels, to, shape.taps(), taps, channels});
    }
  });
}

#define DCN_INSTANTIATE(Element)                                                         \
  template void pack_forward(const Problem<Element>&, const BlockList&, const Element*,  \
                             AccType<Element>*);                                         \
  template void pack_backward(const Problem<Element>&, const BlockList&, const Element*, \
                              AccType<Element>*);                                        \
  template void unpack_gradient(const Problem<Element>&, const BlockList&,               \
                                const AccType<Element>*, int64_t, WeightGradient<Element>);
DCN_INSTANTIATE(double)
DCN_INSTANTIATE(float)
DCN_INSTANTIATE(Half)
DCN_INSTANTIATE(BFloat16)
#undef DCN_INSTANTIATE

}  // namespace dcn::cpu
