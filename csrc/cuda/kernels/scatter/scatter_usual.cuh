// The scatter where a call is usual (scatter_usual.h): as scatter.cuh, but the copy engine brings
// the gradient of the next tile while a tile is walked, and the lists are laid while the tensor
// cores work at the weight gradient.
#pragma once

#include "../kernel_setup.h"
#include "scatter_order.cuh"
#include "scatter_samples.cuh"
#include "scatter_seeker.cuh"
#include "scatter_usual.h"
#include "scatter_usual_walk.cuh"
#include "scatter_walk.cuh"
#include "scatter_wgmma.cuh"

namespace dcn {

// What the copy engine brings, and takes.
template <typename Element>
class ScatterCopies {
 public:
  using Shared = ScatterShared<Element>;

  __device__ __forceinline__ ScatterCopies(const ScatterParams& params, const TensorMap& grad,
                                           const Shared& shared)
      : params_(params), grad_(grad), shared_(shared) {}

  // For one thread, before the others know the barriers.
  __device__ __forceinline__ void begin() const {
    ptx::barrier_init(grad_there(), 1);
    ptx::barrier_init(weight_there(), 1);
    ptx::barrier_init_fence();
  }
  // One thread asks.
  __device__ __forceinline__ void fetch_grad(const ScatterTile& tile) const {
    ptx::expect_bytes(grad_there(), Shared::kGradTileBytes);
    ptx::tensor_copy(ptx::shared_address(shared_.grad_tile()), grad_, {0, tile.q, tile.p, tile.n},
                     grad_there());
  }
  __device__ __forceinline__ void fetch_weight(const ScatterTile& tile) const {
    ptx::expect_bytes(weight_there(), Shared::kWeightBytes);
    ptx::bulk_copy_expected(ptx::shared_address(shared_.weights()),
                            static_cast<const uint8_t*>(params_.weight) +
                                int64_t{tile.offset_group} * Shared::kWeightBytes,
                            Shared::kWeightBytes, weight_there());
  }
  // For all threads; the phase of the CTA's tile.
  __device__ __forceinline__ void wait(uint32_t phase) const {
    ptx::barrier_wait(weight_there(), phase);
    ptx::barrier_wait(grad_there(), phase);
  }
  // For a warp: the window's rows to memory, as far as they are the image's. They are read until
  // bulk_add_wait.
  __device__ __forceinline__ void add_window(const ScatterTile& tile) const {
    const ConvShape& shape = params_.shape;
    const int32_t width = params_.window.columns + 1;
    float* const sums = InputSums::of<Element>(params_, tile, 0).first;
    const int32_t x = max(tile.bin_x, 0), end = min(tile.bin_x + width, shape.W);
    static_assert(usual_window().rows < 32);
    const int32_t row = threadIdx.x % 32, y = tile.bin_y + row;
    if (row <= params_.window.rows && y >= 0 && y < shape.H && x < end) {
      ptx::bulk_add(sums + int64_t{y * shape.W + x} * kBlockChannels,
                    ptx::shared_address(shared_.window() + 2 * (row * width + x - tile.bin_x)),
                    (end - x) * kBlockChannels * sizeof(float));
    }
    ptx::bulk_add_commit();
  }

 private:
  __device__ __forceinline__ uint32_t grad_there() const {
    return ptx::shared_address(shared_.barriers());
  }
  __device__ __forceinline__ uint32_t weight_there() const {
    return ptx::shared_address(shared_.barriers() + 1);
  }

  const ScatterParams& params_;
  const TensorMap& grad_;
  const Shared& shared_;
};

// A CTA's shared memory begins at a whole KiB, with what is static; that of the emulator anywhere.
// Three CTAs have no room for more.
#if defined(DCN_EMULATION)
constexpr uint32_t kUsualSlack = 1024;
#else
constexpr uint32_t kUsualSlack = 1024 - 2 * sizeof(UsualTile);
#endif

// There are places for values without a weight gradient, too: windows are cleared while others
// still read where samples have landed.
template <typename Element>
DCN_HOST_DEVICE ScatterPlaces usual_places() {
  return ScatterShared<Element>::places(usual_window(), ScatterBlocks{1, 1, 2}, true);
}

template <class Math, UsualMaps kMaps, bool kWithWeight>
__global__ void __launch_bounds__(kScatterThreads, scatter_resident(Math::kKind))
    dcn_bprop_scatter_usual_kernel(const __grid_constant__ UsualScatterParams given) {
  extern __shared__ uint8_t shared_memory[];
  using Element = typename Math::Element;
  using Shared = ScatterShared<Element>;
  using Order = ScatterOrder<Element, usual_window().bins(), usual_window().columns>;
  constexpr Dtype kNarrow = Math::kKind == FusedMath::kF16 ? Dtype::kF16 : Dtype::kBF16;
  const ScatterParams params =
      as_usual<kMaps, kWithWeight>(given.params, usual_places<Element>(), kNarrow);
  const uint32_t slack = -ptx::shared_address(shared_memory) & Shared::kSlack;
  if (slack > kUsualSlack) __trap();
  const Shared shared(ptx::shared_part(shared_memory, slack), params.places);
  __shared__ UsualTile tiles[2];  // this one and the next
  __shared__ OrderedClasses ordered;
  __shared__ int32_t score;  // of samples that windows have missed of late
  const ScatterCopies<Element> copies(params, given.grad, shared);
  int32_t* const missed = shared.astray();
  auto* const listed = reinterpret_cast<uint32_t*>(shared.astray() + 3);
  const int32_t first = params.first_item(blockIdx.x), end = params.first_item(blockIdx.x + 1);
  if (threadIdx.x == 0) {
    tiles[first % 2].find(params, first);
    copies.begin();
    copies.fetch_grad(tiles[first % 2]);
    *missed = 0;
    score = 0;
  }
  using Sampling = ScatterSampling<Math>;
  using Samples = ScatterSamples<Math, Sampling::kOffset | Sampling::kMask | Sampling::kInput |
                                           (kWithWeight ? Sampling::kWeight : 0)>;
  Samples(params, tiles[first % 2], shared).begin(0, kScatterTaps);
  ptx::wait_for_previous_grid();  // gradient and maps were there before
  __syncthreads();
  uint32_t phase = 0;
#pragma unroll 1
  for (int32_t item = first; item < end; ++item) {
    UsualTile &tile = tiles[item % 2], &next = tiles[(item + 1) % 2];
    const ScatterWgmma<Math> products(params, tile, shared);
    const Samples samples(params, tile, shared);
    const ScatterWalk<Math> walk(params, tile, shared);
    ScatterSeeker<Math> seeker(params, tile, shared);
    if (score > kScatterSamples / 2) seeker.run(0, kScatterTaps);
    if (threadIdx.x == 0) copies.fetch_weight(tile);
    samples.fetch_image(0);
    constexpr int kCounters = padded_bins(usual_window().bins()) + kLengths;
    static_assert(kCounters <= kThreadBins * kScatterThreads);
    if (threadIdx.x < kCounters / kThreadBins) {
      reinterpret_cast<FourBins*>(shared.lists())[threadIdx.x] = {};
    }
    copies.wait(phase);
    phase ^= 1;
    bool own_finite;
    {
      typename ScatterWgmma<Math>::ColumnSums sums = {};
      products.multiply_slice(sums, false);
      own_finite = products.store_columns(sums, kScatterTaps, kBlockChannels);
    }
    ptx::wait_for_copies();
    ptx::bulk_add_wait();  // values come where the window was
    const bool finite = !__syncthreads_or(!own_finite);
    if (threadIdx.x == 0) *listed = 0;
    samples.run(0, kScatterTaps, 0, finite);
    // By a warp that has fewer taps.
    if (threadIdx.x == kScatterThreads - 1) next.find(params, item + 1);
    ptx::async_proxy_fence();
    __syncthreads();

    Order order(shared);
    {
      typename ScatterWgmma<Math>::WeightSums sums = {};
      if constexpr (kWithWeight) products.multiply_panel(sums);
      if (threadIdx.x < Order::kWarps * 32) order.lay(listed);
      if (threadIdx.x >= kScatterThreads - kLengths) {
        Order::ranks(shared)[kScatterThreads - 1 - threadIdx.x] = 0;
      }
      if constexpr (kWithWeight) {
        ptx::wgmma_wait(sums);
        products.leave(sums, 0, item == first || tile.number == 0);
      }
    }
    __syncthreads();  // values and the gradient have been read, and it is known where lists begin
    if (threadIdx.x == kScatterThreads - 1) {
      if (item + 1 < end) copies.fetch_grad(next);
      const bool sought = score > kScatterSamples / 2;
      score = *missed + (seeker.elsewhere() ? kScatterSamples
                         : sought           ? -kPatience
                                            : min(score, 0));
      *missed = 0;
    }
    if (threadIdx.x < Order::kWarps * 32) order.order(ordered);
    samples.list(kScatterTaps);
    walk.clear();
    __syncthreads();
    UsualWalk<Math, usual_window().columns>(shared).template run<Order::kClassBins>(ordered);
    ptx::async_proxy_fence();
    __syncthreads();
    // By another warp than the first, which goes ahead.
    if (threadIdx.x / 32 == 1) copies.add_window(tile);
  }
  ptx::bulk_add_wait();
}

template <class Math, UsualMaps kMaps, bool kWithWeight>
cudaError_t launch_usual_scatter_as(const UsualScatterParams& usual, cudaStream_t stream) {
  using Element = typename Math::Element;
  constexpr auto kKernel = dcn_bprop_scatter_usual_kernel<Math, kMaps, kWithWeight>;
  const cudaError_t error =
      set_up_kernel<kKernel>(kFusedSharedBytes - kScatterStaticBytes, kScatterCarveout);
  if (error != cudaSuccess) return error;
  const int bytes =
      usual_places<Element>().end + ScatterShared<Element>::kBarrierBytes + kUsualSlack;
  return launch_kernel<kKernel>(dim3(static_cast<unsigned>(usual.params.ctas)), kScatterThreads,
                                bytes, stream, usual, /*beside_previous=*/true);
}

template <class Math, UsualMaps kMaps>
cudaError_t launch_usual_scatter_maps(const UsualScatterParams& usual, cudaStream_t stream) {
  return usual.params.partial != nullptr
             ? launch_usual_scatter_as<Math, kMaps, true>(usual, stream)
             : launch_usual_scatter_as<Math, kMaps, false>(usual, stream);
}

template <class Math>
cudaError_t launch_usual_scatter(const UsualScatterParams& usual, cudaStream_t stream) {
  const ScatterParams& params = usual.params;
  if (params.offset.dtype != Dtype::kF32) {
    return launch_usual_scatter_maps<Math, UsualMaps::kNarrow>(usual, stream);
  }
  if (params.mask.dtype == Dtype::kF32) {
    return launch_usual_scatter_maps<Math, UsualMaps::kWide>(usual, stream);
  }
  return launch_usual_scatter_maps<Math, UsualMaps::kWideOffset>(usual, stream);
}

}  // namespace dcn
