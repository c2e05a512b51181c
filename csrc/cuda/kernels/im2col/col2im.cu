// col2im: from the gradient of the columns to the gradients of input, offset and mask, in one pass
// over the columns.
//
// For each sample, the dot products of its column gradient with its four corners, d_k = sum over c
// of gcol[c] * x[corner k, c], give all three sampling gradients by the formulas of bilinear.h (the
// gradient of a mask is an interpolation of the d_k). They are summed over the lanes of the
// sample's group in a fixed order, without atomics. The input gradient is scattered to the four
// corners with f32 atomics, several channels an instruction where the hardware has it. While the
// corners are in registers, the column itself is formed and put in place of its gradient, ready for
// the weight gradient's GEMM: a second gather is saved.
//
// Bound by the atomics: 16 bytes for each value of the columns (f32), at 3.8 TB/s on an H200.
#include "../atomic_add.cuh"
#include "../sampling.cuh"

namespace dcn {
namespace {

template <typename Coord>
__device__ __forceinline__ Coord sum_over_lanes(Coord value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <typename Element, int kVec, typename Coord>
__device__ __forceinline__ void scatter(Coord* corner0, const ConvShape& shape,
                                        const PlannedSample<Coord>& at,
                                        const Vector<Element, kVec>& gcol) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    // A corner of weight zero is touched by no gradient: with the zero offsets of a fresh layer
    // that spares three of four.
    if (!at.has(k) || at.weight[k] == Coord(0)) continue;
    Vector<Coord, kVec> contribution;
#pragma unroll
    for (int j = 0; j < kVec; ++j) contribution.lane[j] = at.weight[k] * Coord(widen(gcol.lane[j]));
    atomic_add(corner0 + Sample<Coord>::corner_step(k, shape.W) * shape.C, contribution);
  }
}

// Where a finished sample keeps its gradients, in place of its weights.
enum { kGradY, kGradX, kGradMask };

// The tile's sampling gradients, kept where the planned samples' weights were and written with
// consecutive threads on consecutive pixels.
template <typename Coord>
__device__ __forceinline__ void store_sampling_gradients(const Col2imParams& params,
                                                         const Tile& tile,
                                                         const PlannedSample<Coord>* planned) {
  const ColumnParams& chunk = params.chunk;
  const ConvShape& shape = chunk.shape;
  const int64_t plane = shape.output_pixels_per_image();
  const int64_t samples = int64_t{shape.D} * shape.taps();
  for (int32_t i = threadIdx.x; i < kTilePixels * tile.units; i += kThreads) {
    const int32_t pixel = i % kTilePixels, unit = i / kTilePixels;
    if (pixel >= tile.pixels) continue;
    const Unit u = unit_at(shape, tile.first_unit + unit);
    const OutputPixel at = output_pixel(chunk, tile.first_pixel + pixel);
    const int32_t map = u.d * shape.taps() + u.tap;
    const int64_t inside = int64_t{at.p} * shape.Q + at.q;
    const int64_t plane_index = at.n * samples + map;
    const Coord(&gradient)[4] = planned[pixel * tile.units + unit].weight;
    if (params.grad_offset != nullptr) {
      const Coord mask = load_mask<Coord>(chunk, at, map);
      const int64_t y = 2 * plane_index * plane + inside;
      store_as(params.grad_offset, chunk.offset.dtype, y, mask * gradient[kGradY]);
      store_as(params.grad_offset, chunk.offset.dtype, y + plane, mask * gradient[kGradX]);
    }
    if (params.grad_mask != nullptr) {
      store_as(params.grad_mask, chunk.mask.dtype, plane_index * plane + inside,
               gradient[kGradMask]);
    }
  }
}

template <typename Element, int kVec>
__global__ void __launch_bounds__(kThreads)
    dcn_bprop_col2im_kernel(const Col2imParams params, int lanes) {
  using Coord = typename CoordOf<Element>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* planned = reinterpret_cast<PlannedSample<Coord>*>(shared);
  const ColumnParams& chunk = params.chunk;
  const ConvShape& shape = chunk.shape;
  const Tile tile = this_tile(chunk);
  plan_tile<Coord>(chunk, tile, planned);

  const Element* input = static_cast<const Element*>(chunk.input);
  Element* columns = static_cast<Element*>(chunk.columns);
  Coord* grad_input = static_cast<Coord*>(params.grad_input);
  const int32_t channels = shape.channels_per_offset_group();
  const int32_t groups = kThreads / lanes;
  const int32_t lane = threadIdx.x & (lanes - 1);
  // Every lane of a warp stays in the loop for the shuffles, with or without a sample of its own.
  const int32_t rounds = (tile.samples() + groups - 1) / groups;
  for (int32_t round = 0; round < rounds; ++round) {
    const int32_t i = round * groups + threadIdx.x / lanes;
    const bool active = i < tile.samples();
    PlannedSample<Coord> at{};
    if (active) at = planned[i];
    const Element* corner0 = input + at.from;
    Coord dot[4] = {};
    for (int32_t c = lane * kVec; active && c < channels; c += lanes * kVec) {
      auto* place =
          reinterpret_cast<Vector<Element, kVec>*>(columns + column_element(shape, tile, at, i, c));
      const Vector<Element, kVec> gcol = *place;
      Vector<Element, kVec> corner[4], out;
      load_corners(corner0 + c, shape, at, corner);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        Coord value = at.base;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Coord x = Coord(widen(corner[k].lane[j]));
          dot[k] += Coord(widen(gcol.lane[j])) * x;
          value += at.weight[k] * x;
        }
        narrow(value, out.lane[j]);
      }
      if (grad_input != nullptr) scatter(grad_input + at.from + c, shape, at, gcol);
      if (params.write_columns) *place = out;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) dot[k] = sum_over_lanes(dot[k], lanes);
    __syncwarp();
    if (active && lane == 0) {
      const Sample<Coord> sample{0, 0, at.ly, at.lx, at.corners, Coord(0)};
      Coord(&gradient)[4] = planned[i].weight;
      gradient[kGradY] = sample.d_dy(dot[0], dot[1], dot[2], dot[3]);
      gradient[kGradX] = sample.d_dx(dot[0], dot[1], dot[2], dot[3]);
      gradient[kGradMask] = sample.interpolate(dot[0], dot[1], dot[2], dot[3]);
    }
  }
  __syncthreads();
  store_sampling_gradients(params, tile, planned);
}

}  // namespace

cudaError_t launch_col2im(const Col2imParams& params, cudaStream_t stream) {
  const ColumnParams& chunk = params.chunk;
  if (chunk.pixels == 0) return cudaSuccess;
  with_element_and_vector(chunk, [&](auto vector) {
    using V = decltype(vector);
    using Coord = typename CoordOf<typename V::element>::type;
    const int lanes = lanes_per_sample(chunk.shape.channels_per_offset_group() / V::kWidth);
    dcn_bprop_col2im_kernel<typename V::element, V::kWidth>
        <<<tile_grid(chunk), kThreads, tile_bytes<Coord>(chunk), stream>>>(params, lanes);
  });
  return cudaGetLastError();
}

}  // namespace dcn
