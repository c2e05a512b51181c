// The gradients of input, weight, offset and mask where few channels share their offsets, in one
// kernel.
//
// A sample then brings so little to each corner that atomics in memory, and lists of a whole
// image's samples (dgrad), cost more than all else. So a CTA adds up on chip what the samples of a
// tile of output pixels bring to a pixel:
//
//   grid      CTAs that share the tiles of 8 x 16 output pixels, an offset group after the other
//   columns   for 8 channels at a time: grad x weight^T into shared memory, and beside it a window
//             of the image
//   samples   a lane has a sample: its corners, their dot products with the gradient column, and
//             from them the offset and mask gradients; its value; counted by bin, the top-left
//             corner
//   weight    grad^T x values, added to what the CTA has left of the tiles before; the next kernel
//             adds the CTAs' sums in order
//   order     lists of the bins' samples; of the bins by length, so that a warp's are alike
//   walk      a lane has a bin: what its list brings to each of the four corners, in registers;
//             then, a corner at a time, added to a window of pixels in shared memory
//   flush     of the window: added in f32, in 16 bits by the copy engine
//
// Samples beyond the window's bins, and those whose gradients are not finite, are added to memory
// one by one. Most calls in 16 bits have a kernel of their own (scatter_usual.cuh).
#pragma once

#include "../kernel_setup.h"
#include "scatter_input.cuh"
#include "scatter_products.cuh"
#include "scatter_samples.cuh"
#include "scatter_seeker.cuh"
#include "scatter_usual.cuh"
#include "scatter_walk.cuh"
#include "scatter_weight_sums.cuh"

namespace dcn {

// kOneStep: there is one chunk of taps and one block of channels, as nearly always.
template <class Math, bool kOneStep>
__device__ __forceinline__ void scatter_tile(const ScatterParams& params, ScatterTile& tile,
                                             const ScatterShared<typename Math::Element>& shared,
                                             bool fresh) {
  constexpr bool kWgmma = ScatterShared<typename Math::Element>::kWgmma;
  const ScatterProducts<Math, kWgmma> products(params, tile, shared);
  const ScatterSamples<Math> samples(params, tile, shared);
  const ScatterWalk<Math> walk(params, tile, shared);
  const int32_t all_taps = params.shape.taps(), bins = params.window.bins();
  const bool scatters = params.grad_input != nullptr;
  const bool with_columns =
      scatters || params.grad_offset != nullptr || params.grad_mask != nullptr;
#pragma unroll 1
  for (int32_t chunk = 0; chunk < (kOneStep ? 1 : params.work.chunks); ++chunk) {
    const int32_t first_tap = chunk * kScatterTaps, taps = min(kScatterTaps, all_taps - first_tap);
    samples.begin(first_tap, taps);
    OrderedBins ordered{};
    const bool seeks = scatters && *shared.astray() > kScatterSamples / 2;
    bool found = false;
    if (seeks) found = ScatterSeeker<Math>(params, tile, shared).run(first_tap, taps);
#pragma unroll 1
    for (int32_t block = 0; block < (kOneStep ? 1 : params.blocks.count); ++block) {
      samples.fetch_image(block);
      const bool own_finite = products.columns(first_tap, taps, block, with_columns);
      if (scatters && block == 0) {
        // The lengths are behind the last bin.
        const int numbers = padded_bins(bins) + kLengths;
        for (int i = threadIdx.x; i < numbers; i += kScatterThreads) shared.lists()[i] = 0;
        if (threadIdx.x == 0) {
          int32_t& astray = *shared.astray();
          astray = found ? kScatterSamples : seeks ? -kPatience : min(astray, 0);
        }
      }
      ptx::wait_for_copies();
      if (kWgmma) ptx::bulk_add_wait();  // values come where the window was
      const bool finite = !__syncthreads_or(!own_finite);
      samples.run(first_tap, taps, block, finite);
      if (kWgmma) ptx::async_proxy_fence();
      __syncthreads();
      if (params.partial != nullptr) products.weight(chunk, taps, block, fresh);
      if (scatters && block == 0) {
        ordered = order_bins(shared.lists(), shared.order(), shared.lengths(), bins);
        samples.list(taps);
      }
      __syncthreads();  // values have been read, and lists written
      if (!scatters) continue;
      walk.clear();
      walk.run(ordered);
      if (kWgmma) ptx::async_proxy_fence();
      __syncthreads();
      walk.flush(block);
      // What comes next leaves alone what the first warp still needs, until that is there too. In
      // 32 bits weights come where the window was.
      if (!kWgmma) __syncthreads();
    }
  }
}

template <class Math, bool kOneStep>
__global__ void __launch_bounds__(kScatterThreads, scatter_resident(Math::kKind))
    dcn_bprop_scatter_kernel(const __grid_constant__ ScatterParams params) {
  extern __shared__ uint8_t shared_memory[];
  using Shared = ScatterShared<typename Math::Element>;
  const uint32_t slack = -ptx::shared_address(shared_memory) & Shared::kSlack;
  const Shared shared(ptx::shared_part(shared_memory, slack), params.places);
  const int32_t first = params.first_item(blockIdx.x), end = params.first_item(blockIdx.x + 1);
  // This one and the next.
  __shared__ ScatterTile tiles[2];
  if (threadIdx.x == 0) {
    tiles[first % 2].find(params, first);
    *shared.astray() = 0;
  }
  ptx::wait_for_previous_grid();
  __syncthreads();
#pragma unroll 1
  for (int32_t item = first; item < end; ++item) {
    if (threadIdx.x == 0) tiles[(item + 1) % 2].find(params, item + 1);
    ScatterTile& tile = tiles[item % 2];
    scatter_tile<Math, kOneStep>(params, tile, shared, item == first || tile.number == 0);
  }
  if (Shared::kWgmma) ptx::bulk_add_wait();
}

inline ScatterParams with_work(ScatterParams params, int element_bytes) {
  const ConvShape& shape = params.shape;
  params.blocks = scatter_blocks(params.layout, params.grad_layout, element_bytes);
  params.window = bin_window(shape);
  params.work = scatter_work(shape, element_bytes);
  params.bin_columns = Divisor(params.window.columns);
  params.window_columns = Divisor(params.window.columns + 1);
  params.kernel_width = Divisor(shape.S);
  params.tiles = Divisor(static_cast<uint32_t>(params.work.tiles));
  params.tiles_across = Divisor(static_cast<uint32_t>(tiles_of(shape.Q, kScatterColumns)));
  params.tiles_down = Divisor(static_cast<uint32_t>(tiles_of(shape.P, kScatterRows)));
  return params;
}

template <void (*kKernel)(ScatterParams)>
struct Kernel {
  static constexpr auto value = kKernel;
};

// Each kind of arithmetic is instantiated in a file of its own.
template <class Math>
cudaError_t launch_scatter_math(ScatterParams params, cudaStream_t stream) {
  using Element = typename Math::Element;
  params = with_work(params, sizeof(Element));
  params.places =
      ScatterShared<Element>::places(params.window, params.blocks, params.partial != nullptr);
  if constexpr (ScatterShared<Element>::kWgmma) {
    UsualScatterParams usual{params, {}};
    if (is_usual(params) && make_grad_map(params, usual.grad) == cudaSuccess) {
      return launch_usual_scatter<Math>(usual, stream);
    }
  }
  const auto launch = [&](auto kernel) {
    // Shapes ask for different amounts.
    constexpr auto kKernel = decltype(kernel)::value;
    const cudaError_t error =
        set_up_kernel<kKernel>(kFusedSharedBytes - kScatterStaticBytes, kScatterCarveout);
    if (error != cudaSuccess) return error;
    return launch_kernel<kKernel>(dim3(static_cast<unsigned>(params.ctas)), kScatterThreads,
                                  params.places.end + ScatterShared<Element>::kSlack, stream,
                                  params, /*beside_previous=*/true);
  };
  if (params.work.chunks == 1 && params.blocks.count == 1) {
    return launch(Kernel<dcn_bprop_scatter_kernel<Math, true>>{});
  }
  return launch(Kernel<dcn_bprop_scatter_kernel<Math, false>>{});
}

template <class Math>
cudaError_t launch_transpose_grad_math(ScatterParams params, cudaStream_t stream,
                                       bool beside_previous) {
  params = with_work(params, sizeof(typename Math::Element));
  const int64_t ctas = params.work.tiles * (kScatterPixels / kTransposePixels);
  return launch_kernel<dcn_scatter_transpose_kernel<Math>>(
      dim3(static_cast<unsigned>(ctas)), kTransposeThreads, 0, stream, params, beside_previous);
}

// What is left of the gradients of weight and input: the first CTAs have the weight's.
template <class Math>
__global__ void __launch_bounds__(kSumThreads)
    dcn_scatter_results_kernel(const __grid_constant__ ScatterParams params) {
  static_assert(kSumThreads == kStoreThreads);
  ptx::wait_for_previous_grid();
  const int64_t cta = blockIdx.x;
  if (cta < params.sum_ctas) {
    sum_weights<Math>(params, cta);
  } else if constexpr (sizeof(typename Math::Element) == 2) {
    store_input<Math>(params, cta - params.sum_ctas);
  }
}

template <class Math>
cudaError_t launch_scatter_results_math(ScatterParams params, cudaStream_t stream) {
  constexpr int kBytes = sizeof(typename Math::Element);
  params = with_work(params, kBytes);
  const int64_t sums = int64_t{params.shape.D} * params.work.units * kUnitSums;
  params.sum_ctas = params.partial != nullptr ? static_cast<int32_t>(sums / (4 * kSumVectors)) : 0;
  int64_t ctas = params.sum_ctas;
  if (kBytes == 2 && params.grad_input != nullptr) {
    ctas += tiles_of(params.shape.N * stores_of_image(params.shape, params.blocks), kStoreThreads);
  }
  if (ctas == 0) return cudaSuccess;
  return launch_kernel<dcn_scatter_results_kernel<Math>>(dim3(static_cast<unsigned>(ctas)),
                                                         kSumThreads, 0, stream, params,
                                                         /*beside_previous=*/true);
}

}  // namespace dcn
