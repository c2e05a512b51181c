// The matrix products of a tile of the scatter in 16 bits, by wgmma: the gradient columns, grad x
// weight^T, and the weight gradient, grad^T x values. Both read the gradient's rows of 64 output
// channels where they lie, once along the rows, once across.
#pragma once

#include <type_traits>

#include "../atomic_add.cuh"
#include "../fused/fused_math.cuh"
#include "../ptx_sm90.cuh"
#include "scatter_shared.cuh"

namespace dcn {

template <class Math>
class ScatterWgmma {
 public:
  using Element = typename Math::Element;
  using Shared = ScatterShared<Element>;

  __device__ __forceinline__ ScatterWgmma(const ScatterParams& params, const ScatterTile& tile,
                                          const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {}

  // A multiplication's sums: of 16 bits, a row of pixels a warp, and of a panel of output channels.
  using ColumnSums = float[kScatterTaps * 4];
  static constexpr int kTaps = (kScatterTaps + 1) / 2;  // of a warpgroup, for the weight gradient
  using WeightSums = float[kTaps * 4];

  // The columns of some taps and one block of channels, if they are `wanted`: whether this thread's
  // are finite. The gradient's last slice is there afterwards.
  __device__ __forceinline__ bool columns(int32_t first_tap, int32_t taps, int32_t block,
                                          bool wanted) const {
    ColumnSums sums = {};  // so that no register is kept for them before
#pragma unroll 1
    for (int32_t slice = 0; slice < params_.blocks.slices(); ++slice) {
      if (slice > 0) __syncthreads();  // the slice before has been read
      copy_grad(block, slice);
      if (wanted) copy_weights(first_tap, taps, block, slice);
      land();
      if (wanted) multiply_slice(sums, slice > 0);
    }
    return !wanted || store_columns(sums, taps, tile_.block(params_, block).channels);
  }

  // The weight gradient of a block and a chunk of taps, added to what the CTA has left of the tiles
  // before; its first tile of an offset group is `fresh`.
  __device__ __forceinline__ void weight(int32_t chunk, int32_t taps, int32_t block,
                                         bool fresh) const {
#pragma unroll 1
    for (int32_t panel = params_.work.panels - 1; panel >= 0; --panel) {
      if (panel + 1 < params_.work.panels) {
        __syncthreads();  // the panel before has been read
        copy_grad(block, panel);
        land();
      }
      WeightSums sums = {};
      multiply_panel(sums);
      ptx::wgmma_wait(sums);
      leave(sums, params_.work.unit(block, chunk, panel), fresh);
    }
  }

  // Columns of the slice that is there.
  __device__ __forceinline__ void multiply_slice(ColumnSums& sums, bool add) const {
    const uint64_t a = ptx::tile_descriptor(ptx::shared_address(shared_.grad_tile()) +
                                            warpgroup() * (64 * kSliceBytes));
    const uint64_t b = ptx::tile_descriptor(ptx::shared_address(shared_.weights()));
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      TileWgmma::mma(sums, moved(a, 32 * k), moved(b, 32 * k), add || k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait(sums);
  }

  // To shared memory. Whether this thread's are finite.
  __device__ __forceinline__ bool store_columns(const ColumnSums& sums, int32_t taps,
                                                int32_t channels) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int lane = thread % 32, warp = thread / 32;
    uint32_t not_finite = 0;
#pragma unroll
    for (int t = 0; t < kScatterTaps; ++t) {
      if (t >= taps) break;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // A lane has channels 2 * (lane % 4) and the next one of two pixels. Products of zeros that
        // pad with what is not finite do not count.
        const float* const sum = sums + 4 * t + 2 * r;
        uint32_t pair = Math::pack(sum[0], sum[1]);
        if (channels < kBlockChannels) {
          const int32_t first = 2 * (lane % 4);
          pair = first >= channels ? 0 : first + 1 >= channels ? pair & 0xffffu : pair;
        }
        not_finite |= Math::multiply(pair, 0);
        const int32_t i = t * kScatterPixels + warp * kScatterColumns + lane / 4 + 8 * r;
        reinterpret_cast<uint32_t*>(shared_.gradient() + i)[lane % 4] = pair;
      }
    }
    return (not_finite & 0x7fff7fffu) == 0;
  }

  // The weight gradient of the slice that is there; the sums are to be waited for. A warpgroup has
  // half of the taps.
  __device__ __forceinline__ void multiply_panel(WeightSums& sums) const {
    const uint64_t a = ptx::panel_descriptor(ptx::shared_address(shared_.grad_tile()));
    const uint64_t b = ptx::block_descriptor(
        ptx::shared_address(shared_.values()) + warpgroup() * kTaps * kTapBytes, kTapBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kScatterPixels / 16; ++k) {
      BlockWgmma::mma(sums, moved(a, k * 16 * kSliceBytes), moved(b, k * 256));
    }
    ptx::wgmma_commit();
  }

  // Nobody reads the sums of output channels and of taps that there are not.
  __device__ __forceinline__ void leave(const WeightSums& sums, int32_t unit, bool fresh) const {
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int lane = thread % 32, strip = thread / 32 % 4, first = warpgroup() * kTaps;
    auto* const left =
        reinterpret_cast<Vector<float, 4>*>(params_.sums_of(blockIdx.x, tile_.offset_group, unit)) +
        (strip * kScatterTaps + first) * 32 + lane;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (first + t >= kScatterTaps) break;
      const Vector<float, 4> sum{{sums[4 * t], sums[4 * t + 1], sums[4 * t + 2], sums[4 * t + 3]}};
      if (fresh) {
        left[t * 32] = sum;
      } else {
        // No other thread adds to these: so they are added in order, and nobody waits for them.
        atomic_add(reinterpret_cast<float*>(left + t * 32), sum);
      }
    }
  }

 private:
  using TileWgmma =
      std::conditional_t<Math::kKind == FusedMath::kF16, ptx::TileWgmmaF16, ptx::TileWgmmaBF16>;
  using BlockWgmma =
      std::conditional_t<Math::kKind == FusedMath::kF16, ptx::BlockWgmmaF16, ptx::BlockWgmmaBF16>;
  static constexpr int kTapBytes = kScatterPixels * kVectorBytes;  // of values
  static constexpr int kRowVectors = kSliceBytes / kVectorBytes;

  // The compiler sees that this is the same for all lanes, as descriptors are.
  static __device__ __forceinline__ int warpgroup() {
    return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  }
  // A descriptor of what lies so many bytes further on: the address never carries.
  static __device__ __forceinline__ uint64_t moved(uint64_t descriptor, uint32_t bytes) {
    const auto low = static_cast<uint32_t>(descriptor);
    return (descriptor >> 32 << 32) | (low + bytes / 16);
  }

  // All that was asked for is there, for the tensor cores too.
  __device__ __forceinline__ void land() const {
    ptx::wait_for_copies();
    ptx::async_proxy_fence();
    __syncthreads();
  }

  // Has a slice of the tile's gradient on its way, zeros where there is none: 8 threads a row.
  __device__ __forceinline__ void copy_grad(int32_t block, int32_t slice) const {
    constexpr int kStep = kScatterThreads / kRowVectors;  // rows, of whole lines of the tile
    static_assert(kStep % kScatterColumns == 0);
    constexpr int kStepLines = kStep / kScatterColumns;
    const ConvShape& shape = params_.shape;
    const int thread = ptx::unkept(static_cast<int>(threadIdx.x));
    const int row = thread / kRowVectors, vector = thread % kRowVectors;
    const int32_t p = tile_.p + row / kScatterColumns, q = tile_.q + row % kScatterColumns;
    const int32_t channel = (slice * kRowVectors + vector) * (kVectorBytes / sizeof(Element));
    const int32_t row_channels = params_.grad_layout.channels;
    const int32_t group_channels = params_.grad_layout.group_channels;
    const bool copies = q < shape.Q && channel < group_channels;
    const int32_t pixel = row / kScatterColumns * shape.Q + row % kScatterColumns;
    const Element* const grad = static_cast<const Element*>(params_.grad) + tile_.grad +
                                int64_t{pixel} * row_channels +
                                (tile_.block(params_, block).group * group_channels + channel);
    const uint32_t to = ptx::shared_address(shared_.grad_tile()) +
                        (row * kRowVectors + (vector ^ row % 8)) * kVectorBytes;
#pragma unroll
    for (int i = 0; i < kScatterPixels / kStep; ++i) {
      const bool exists = copies && p + kStepLines * i < shape.P;
      const Element* const from = grad + int64_t{kStepLines * i * shape.Q} * row_channels;
      ptx::copy_vector_or_zeros(to + i * kStep * kSliceBytes, exists ? from : params_.grad, exists);
    }
  }

  __device__ __forceinline__ void copy_weights(int32_t first_tap, int32_t taps, int32_t block,
                                               int32_t slice) const {
    constexpr int kTapVectors = kBlockChannels * kRowVectors;
    const int64_t tile =
        (int64_t{tile_.offset_group} * params_.blocks.count + block) * params_.blocks.slices() +
        slice;
    const uint4* const from = static_cast<const uint4*>(params_.weight) +
                              (tile * params_.shape.taps() + first_tap) * kTapVectors;
    const uint32_t to = ptx::shared_address(shared_.weights());
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < taps * kTapVectors; i += kScatterThreads) {
      ptx::copy_vector(to + i * kVectorBytes, from + i);
    }
  }

  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
