// The gradients of input, offset and mask where few channels share their offsets, in one kernel.
//
// A sample then brings so little to each corner that atomics in memory, and lists of a whole
// image's samples (dgrad), cost more than all else. So a CTA adds up on chip what the samples of a
// tile of output pixels bring to a pixel:
//
//   grid      tiles of 8 x 16 output pixels x offset groups
//   columns   for 8 channels at a time: grad x weight^T into shared memory
//   samples   a lane has a sample: its corners, their dot products with the gradient column, and
//             from them the offset and mask gradients; counted by bin, the top-left corner
//   order     lists of the bins' samples; of the bins by length, so that a warp's are alike
//   walk      a lane has a bin: what its list brings to each of the four corners, in registers;
//             then, a corner at a time, added to a window of pixels in shared memory
//   flush     of the window, by atomics in f32
//
// Samples beyond the window's bins, and those whose gradients are not finite, are added to memory
// one by one.
#pragma once

#include "kernel_setup.h"
#include "scatter_columns.cuh"
#include "scatter_samples.cuh"
#include "scatter_walk.cuh"

namespace dcn {

constexpr int kScatterStaticBytes = 1024;  // of shared memory, at most

template <class Math>
constexpr int kScatterResident = sizeof(typename Math::Element) == 2 ? 3 : 2;  // CTAs

template <class Math>
__global__ void __launch_bounds__(kScatterThreads, kScatterResident<Math>)
    dcn_bprop_scatter_kernel(const __grid_constant__ ScatterParams params) {
  extern __shared__ uint8_t shared_memory[];
  const ScatterShared<typename Math::Element> shared(shared_memory, params);
  const ScatterTile tile(params);
  const ScatterColumns<Math> columns(params, tile, shared);
  const ScatterSamples<Math> samples(params, tile, shared);
  const ScatterWalk<Math> walk(params, tile, shared);
  const int32_t all_taps = params.shape.taps(), bins = params.window.bins();
  const bool scatters = params.grad_input != nullptr;
#pragma unroll 1
  for (int32_t first_tap = 0; first_tap < all_taps; first_tap += kScatterTaps) {
    const int32_t taps = min(kScatterTaps, all_taps - first_tap);
    samples.begin(first_tap, taps);
    if (scatters) {
      for (int i = threadIdx.x; i < padded_bins(bins); i += kScatterThreads) shared.begins[i] = 0;
    }
    int32_t with_samples = 0;
#pragma unroll 1
    for (int32_t block = 0; block < params.blocks.count; ++block) {
      const ScatterBlock at = scatter_block(params.layout, params.blocks, tile.offset_group, block);
      columns.run(first_tap, taps, block, at);
      __syncthreads();
      samples.run(first_tap, taps, block, at);
      __syncthreads();
      if (!scatters) continue;
      if (block == 0) {
        with_samples = order_bins(shared.begins, shared.order, shared.places, bins);
        samples.list(taps);
        __syncthreads();
      }
      walk.clear();
      walk.run(with_samples);
      __syncthreads();
      walk.flush(at);
      __syncthreads();  // the next window, and the next lists
    }
  }
}

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_scatter_math(ScatterParams params, cudaStream_t stream) {
  using Element = typename Math::Element;
  const ConvShape& shape = params.shape;
  params.blocks = scatter_blocks(params.layout, params.grad_layout, sizeof(Element));
  params.window = bin_window(shape);
  params.bin_columns = Divisor(params.window.columns);
  params.window_columns = Divisor(params.window.columns + 1);
  params.kernel_width = Divisor(shape.S);
  const int64_t tiles_across = tiles_of(shape.Q, kScatterColumns);
  const int64_t tiles_down = tiles_of(shape.P, kScatterRows);
  params.offset_groups = Divisor(shape.D);
  params.tiles_across = Divisor(static_cast<uint32_t>(tiles_across));
  params.tiles_down = Divisor(static_cast<uint32_t>(tiles_down));
  const int64_t ctas = shape.N * tiles_down * tiles_across * shape.D;
  const int64_t bytes = ScatterShared<Element>::bytes(params.window, params.blocks);
  // Shapes ask for different amounts.
  const cudaError_t error =
      set_up_kernel<dcn_bprop_scatter_kernel<Math>>(kFusedSharedBytes - kScatterStaticBytes);
  if (error != cudaSuccess) return error;
  return launch_kernel<dcn_bprop_scatter_kernel<Math>>(
      dim3(static_cast<unsigned>(ctas)), kScatterThreads, static_cast<int>(bytes), stream, params);
}

}  // namespace dcn
