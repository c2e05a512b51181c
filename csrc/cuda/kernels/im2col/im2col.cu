// im2col: the columns of a chunk of output pixels, [pixels, G, R*S, C/G], from an NHWC image.
//
// Bound by instruction issue and by memory traffic inside the chip: four corner vectors read,
// mostly L1 hits since neighbouring taps share pixels, for one written. Where there is a bias, the
// same pass puts it into the output rows, so that the GEMM adds onto it and no third kernel touches
// the output.
#include "../sampling.cuh"

namespace dcn {
namespace {

template <typename Element>
__device__ __forceinline__ void fill_bias(const Im2colParams& params, const Tile& tile) {
  const int32_t K = params.chunk.shape.K;
  const Element* bias = static_cast<const Element*>(params.bias);
  Element* output = static_cast<Element*>(params.output) + int64_t{tile.first_pixel} * K;
  for (int32_t pixel = 0; pixel < tile.pixels; ++pixel) {
    for (int32_t k = threadIdx.x; k < K; k += kThreads) output[int64_t{pixel} * K + k] = bias[k];
  }
}

template <typename Element, int kVec>
__global__ void __launch_bounds__(kThreads)
    dcn_fprop_im2col_kernel(const Im2colParams params, int lanes) {
  using Coord = typename CoordOf<Element>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* planned = reinterpret_cast<PlannedSample<Coord>*>(shared);
  const ColumnParams& chunk = params.chunk;
  const ConvShape& shape = chunk.shape;
  const Tile tile = this_tile(chunk);
  plan_tile<Coord>(chunk, tile, planned);

  if (params.bias != nullptr && blockIdx.y == 0) fill_bias<Element>(params, tile);

  const Element* input = static_cast<const Element*>(chunk.input);
  Element* columns = static_cast<Element*>(chunk.columns);
  const int32_t channels = shape.channels_per_offset_group();
  const int32_t lane = threadIdx.x & (lanes - 1);
  for (int32_t i = threadIdx.x / lanes; i < tile.samples(); i += kThreads / lanes) {
    const PlannedSample<Coord> at = planned[i];
    const Element* corner0 = input + at.from;
#pragma unroll 2
    for (int32_t c = lane * kVec; c < channels; c += lanes * kVec) {
      Vector<Element, kVec> corner[4], out;
      load_corners(corner0 + c, shape, at, corner);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        Coord value = at.base;
#pragma unroll
        for (int k = 0; k < 4; ++k) value += at.weight[k] * Coord(widen(corner[k].lane[j]));
        narrow(value, out.lane[j]);
      }
      *reinterpret_cast<Vector<Element, kVec>*>(columns + column_element(shape, tile, at, i, c)) =
          out;
    }
  }
}

}  // namespace

cudaError_t launch_im2col(const Im2colParams& params, cudaStream_t stream) {
  const ColumnParams& chunk = params.chunk;
  if (chunk.pixels == 0) return cudaSuccess;
  with_element_and_vector(chunk, [&](auto vector) {
    using V = decltype(vector);
    using Coord = typename CoordOf<typename V::element>::type;
    const int lanes = lanes_per_sample(chunk.shape.channels_per_offset_group() / V::kWidth);
    dcn_fprop_im2col_kernel<typename V::element, V::kWidth>
        <<<tile_grid(chunk), kThreads, tile_bytes<Coord>(chunk), stream>>>(params, lanes);
  });
  return cudaGetLastError();
}

}  // namespace dcn
