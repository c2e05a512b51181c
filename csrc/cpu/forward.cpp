// NOTE [forward on a CPU]
//
// Threads own tiles of output pixels of one image. A tile runs through the columns in blocks:
//
//                    channels of some taps                K
//                    +-------------------+        +--------------+
//   pixels of a tile |   column block    |   x    | weight block |   added to sums [pixels, K]
//   (up to 128)      +-------------------+        +--------------+
//
//   gather    for each tap and offset group the tile's samples are planned, as vectors over the
//             pixels; then four corners a pixel are mixed, as vectors over the channels (columns.h)
//   multiply  sums += column block * weight block, by a micro-kernel
//   store     sums, which began as the bias, go to the output's layout and type
//
// The columns never leave the second-level cache, where they share space with the weight block:
// hence the two limits below.
//
// Bound: the multiplication, 2 * K operations a column value, against some 12 cycles to gather a
// vector of 16 whose corners lie in the second-level cache: a third on top at K = 64, a twentieth
// at K = 512. With 8 channels an offset group, planning the samples and walking over hundreds of
// offset maps, each on memory pages of its own, cost as much as the multiplication.
#include "forward.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "gemm.h"

namespace dcn::cpu {
namespace {

// Bytes of a column block and of a weight block. The micro-kernel falls to a third of its rate when
// the weight block and what passes through beside it exceed a second-level cache of 1 MiB.
constexpr int64_t kColumnBytes = 256 << 10;
constexpr int64_t kWeightBytes = 512 << 10;

template <typename Element>
class ForwardTask {
 public:
  using Acc = AccType<Element>;

  ForwardTask(const ForwardCall<Element>& call, const Cut& cut, const Acc* weight, const Acc* bias)
      : call_(call),
        list_(cut.list),
        weight_(weight),
        bias_(bias),
        column_(cut.list.column_values),
        sums_(int64_t{cut.tiles.max_tile_pixels()} * call.problem.shape.K),
        plan_(1) {}

  void run(const Tile& tile) const {
    const ConvShape& shape = call_.problem.shape;
    Acc* sums = sums_.data();
    for (int32_t i = 0; i < tile.pixels(); ++i) std::copy_n(bias_, shape.K, sums + i * shape.K);
    for (const BlockWork& work : list_.blocks) {
      const BlockVisit<Element> visit{call_.problem, work, tile, column_.data()};
      visit.for_each_run(*plan_.data(), [&](const GatherParams<Element>& params, int32_t, int32_t) {
        call_.problem.kernels->gather(params);
      });
      multiply(work, tile);
    }
    store(tile);
  }

 private:
  void multiply(const BlockWork& work, const Tile& tile) const {
    const ConvShape& shape = call_.problem.shape;
    const ColumnBlock& block = work.block;
    const int64_t n = shape.gemm_n();
    for (int32_t group = 0; group < block.groups(); ++group) {
      const Acc* weight = weight_ + packed_offset(shape, block, group);
      Acc* sums = sums_.data() + (block.group_begin + group) * n;
      for (int64_t k = 0; k < n; k += kPanel) {
        const int64_t width = std::min(kPanel, n - k);
        gemm({tile.pixels(), width, block.gemm_k()},
             {column_.data() + group * work.group_stride, work.column_stride},
             {weight + k * block.gemm_k(), width}, {sums + k, shape.K}, /*accumulate=*/true);
      }
    }
  }

  void store(const Tile& tile) const {
    const ConvShape& shape = call_.problem.shape;
    Element* image =
        call_.output.data + int64_t{tile.n} * shape.output_pixels_per_image() * shape.K;
    for (int32_t h = 0; h < tile.height; ++h) {
      const Acc* row = sums_.data() + int64_t{h} * tile.width * shape.K;
      const int64_t pixel = int64_t{tile.p + h} * shape.Q + tile.q;
      if (call_.output.channels_last) {
        call_.problem.kernels->narrow(
            {row, shape.K, image + pixel * shape.K, shape.K, tile.width, shape.K});
      } else {
        call_.problem.kernels->narrow_transposed(
            {row, shape.K, image + pixel, shape.output_pixels_per_image(), tile.width, shape.K});
      }
    }
  }

  const ForwardCall<Element>& call_;
  const BlockList& list_;
  const Acc *weight_, *bias_;
  Buffer<Acc> column_, sums_;
  Buffer<SamplePlan<Acc>> plan_;
};

}  // namespace

template <typename Element>
void run_forward(const ForwardCall<Element>& call) {
  using Acc = AccType<Element>;
  const ConvShape& shape = call.problem.shape;
  const Cut cut(shape, sizeof(Acc), kColumnBytes, kWeightBytes);

  Buffer<Acc> weight(int64_t{shape.K} * shape.gemm_k());
  pack_forward(call.problem, cut.list, call.weight, weight.data());
  std::vector<Acc> bias(shape.K);
  if (call.bias)
    call.problem.kernels->widen({call.bias, shape.K, bias.data(), shape.K, 1, shape.K});

  at::parallel_for(0, cut.tiles.size(), 1, [&](int64_t begin, int64_t end) {
    const ForwardTask<Element> task(call, cut, weight.data(), bias.data());
    for (int64_t i = begin; i < end; ++i) task.run(cut.tiles[i]);
  });
}

template void run_forward(const ForwardCall<double>&);
template void run_forward(const ForwardCall<float>&);
template void run_forward(const ForwardCall<Half>&);
template void run_forward(const ForwardCall<BFloat16>&);

}  // namespace dcn::cpu
