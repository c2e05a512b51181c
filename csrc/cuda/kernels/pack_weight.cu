// Packs the weight for the fused kernels: a thread writes 16-byte vectors of the result.
//
// Rows are output channels, 128 bytes of gemm_k each, in tiles: [group][step][part][tile], steps in
// the order of fused_layout.h, so that a kernel whose tiles are wider finds several side by side.
// Two permutations make the kernels' lives easy, and cost nothing here: gemm_k inside a slice, so
// that a lane's vector of channels is a fragment of A as it comes (fused_gather.cuh), and the
// channels of a tile, so that a lane ends with consecutive ones (fprop_epilogue.cuh). Vectors of a
// row are swizzled as wgmma reads them.
//
// For mma.sync the order is [group][tile][step], and a tile holds vectors instead of rows, each for
// one lane and load (fused_mma.cuh): [half slice][part][8 output channels][lane], channels of gemm_k
// in their natural order.
#include "fused_math.cuh"
#include "fused_params.h"
#include "kernel_setup.h"
#include "ptx_sm90.cuh"
#include "sampling.cuh"

namespace dcn {
namespace {

constexpr int kVectorsPerRow = kSliceBytes / kVectorBytes;

// Channel of the slice at place i of vector v of a row: multiplication v / 2, whose fragments hold
// two rows of lanes' registers, (v % 2) saying which.
template <int kElements>
__device__ __forceinline__ int32_t slice_channel(int32_t v, int32_t i) {
  constexpr int kPairs = kElements / 4;  // channels of a register: 2 of 16 bits, 1 of f32
  const int32_t half = v / 4, k = v / 2 % 2, late = v % 2;
  return half * 4 * kElements + i / kPairs * kElements + k * 2 * kPairs + late * kPairs +
         i % kPairs;
}

// Output channel of the tile at row `row`.
__device__ __forceinline__ int32_t tile_channel(int32_t row) {
  return row / 32 * 32 + row / 2 % 4 * 8 + row / 8 % 4 * 2 + row % 2;
}

// Block: kBlockRows rows of the tile of one step.
constexpr int kBlockRows = 64;
constexpr int kThreads = 256;

template <class Math, bool kForMmaSync>
__global__ void __launch_bounds__(kThreads) dcn_pack_weight_kernel(const PackWeightParams params) {
  using Element = typename Math::Element;
  constexpr int kElements = kVectorBytes / sizeof(Element);
  constexpr int kParts = weight_parts(Math::kKind);
  ptx::launch_dependents();
  const ConvShape& shape = params.shape;
  const FusedLayout& layout = params.layout;
  const uint32_t block = blockIdx.x + gridDim.x * blockIdx.y;
  for (uint32_t i = block * kThreads + threadIdx.x; i < params.counter_count;
       i += gridDim.x * gridDim.y * kThreads) {
    params.counters[i] = 0;
  }
  const int32_t rows = params.tile_channels, per_group = shape.output_channels_per_group();
  const int32_t channel_tiles = tiles_of(per_group, rows);
  const int32_t group_tile = blockIdx.x / layout.steps, step = blockIdx.x % layout.steps;
  const int32_t group = group_tile / channel_tiles;
  const int32_t first_k = (group_tile - group * channel_tiles) * rows;
  const FusedStep at = step_at(layout, shape.taps(), step);
  const int32_t r = at.tap / shape.S, s = at.tap - r * shape.S;
  const Element* weight = static_cast<const Element*>(params.weight) +
                          int64_t{group} * params.stride_g + r * params.stride_r +
                          s * params.stride_s;
  const int32_t tile_bytes = rows * kSliceBytes;
  const int64_t first_tile =
      kForMmaSync ? int64_t{blockIdx.x} * kParts
                  : (int64_t{group} * layout.steps + step) * kParts * channel_tiles + first_k / rows;
  uint8_t* packed = static_cast<uint8_t*>(params.packed) + first_tile * tile_bytes;
#pragma unroll
  for (int pass = 0; pass < kBlockRows * kVectorsPerRow / kThreads; ++pass) {
    const int32_t i = pass * kThreads + threadIdx.x;
    const int32_t v = i % kVectorsPerRow, row = blockIdx.y * kBlockRows + i / kVectorsPerRow;
    const int32_t k = first_k + tile_channel(row);
    Vector<Element, kElements> value[kParts] = {};
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const int32_t in_block = at.slice * kElements * kVectorsPerRow +
                               (kForMmaSync ? v * kElements + e : slice_channel<kElements>(v, e));
      if (k >= per_group || in_block >= layout.block_channels) continue;
      const int32_t padded = at.block * layout.block_channels + in_block;
      const int32_t c = layout.padded() ? unpadded_channel(layout, padded) : padded;
      if (c >= 0) Math::split(weight[k * params.stride_k + c * params.stride_c], value, e);
    }
    // Of mma.sync a half step is whole: both parts of half a slice follow one another.
    const int32_t part_bytes = kForMmaSync ? tile_bytes / 2 : channel_tiles * tile_bytes;
    const int32_t at_byte = kForMmaSync ? v / 4 * kParts * part_bytes +
                                              (row / 8 * 32 + row % 8 * 4 + v % 4) * kVectorBytes
                                        : row * kSliceBytes + (v ^ row % 8) * kVectorBytes;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      *reinterpret_cast<Vector<Element, kElements>*>(packed + at_byte + part * part_bytes) =
          value[part];
    }
  }
}

template <class Math, bool kForMmaSync>
cudaError_t launch_order(const PackWeightParams& params, cudaStream_t stream) {
  const int64_t tiles = int64_t{params.shape.G} * params.layout.steps *
                        tiles_of(params.shape.output_channels_per_group(), params.tile_channels);
  const dim3 grid(static_cast<unsigned>(tiles), params.tile_channels / kBlockRows);
  return launch_kernel<dcn_pack_weight_kernel<Math, kForMmaSync>>(grid, kThreads, 0, stream,
                                                                  params);
}

template <class Math>
cudaError_t launch(const PackWeightParams& params, cudaStream_t stream) {
  return params.for_mma_sync ? launch_order<Math, true>(params, stream)
                             : launch_order<Math, false>(params, stream);
}

}  // namespace

cudaError_t launch_pack_weight(const PackWeightParams& params, cudaStream_t stream) {
  switch (params.math) {
    case FusedMath::kF16:
      return launch<MathF16>(params, stream);
    case FusedMath::kBF16:
      return launch<MathBF16>(params, stream);
    case FusedMath::kTf32:
      return launch<MathTf32>(params, stream);
    case FusedMath::k3xTf32:
      return launch<Math3xTf32>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
