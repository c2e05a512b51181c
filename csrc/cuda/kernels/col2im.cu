// col2im: from the gradient of the columns to the gradients of input, offset and mask, in one pass over the columns.
//
// For each sample, the dot products of its column gradient with its four corners, d_k = sum over c of gcol[c] * x[corner k, c],
// give all three sampling gradients by the formulas of bilinear.h (the gradient of a mask is an interpolation of the d_k). They
// are summed over the lanes of the sample's group in a fixed order, without atomics. The input gradient is scattered to the four
// corners with f32 atomics, several channels an instruction where the hardware has it. While the corners are in registers, the
// column itself is formed and put in place of its gradient, ready for the weight gradient's GEMM: a second gather is saved.
//
// Bound by the atomics: 16 bytes for each value of the columns (f32), at 3.8 TB/s on an H200.
#include "atomic_add.cuh"
#include "sampling.cuh"

namespace dcn {
namespace {

template <typename Coord>
__device__ __forceinline__ Coord sum_over_lanes(Coord value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <typename Element, int kVec, typename Coord>
__device__ __forceinline__ void scatter(const Col2imParams& params, const PlannedSample<Coord>& at,
                                        int32_t c, const Vector<Element, kVec>& gcol) {
  const ConvShape& shape = params.chunk.shape;
  Coord* grad_input = static_cast<Coord*>(params.grad_input);
  const int32_t origin = (at.sample.y0 * shape.W + at.sample.x0) * shape.C + at.channel + c;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const Coord weight = at.sample.weight(k) * at.mask;
    // A corner of weight zero is touched by no gradient: with the zero offsets of a fresh layer that spares three of four.
    if (!at.sample.has(k) || weight == Coord(0)) continue;
    Vector<Coord, kVec> contribution;
#pragma unroll
    for (int j = 0; j < kVec; ++j) contribution.lane[j] = weight * Coord(widen(gcol.lane[j]));
    atomic_add(grad_input + at.image + origin + Sample<Coord>::corner_step(k, shape.W) * shape.C,
               contribution);
  }
}

// The tile's sampling gradients, kept where the planned samples were and written with consecutive threads on consecutive pixels.
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
    const int32_t tap = (tile.first_unit + unit) / shape.D;
    const int32_t d = (tile.first_unit + unit) - tap * shape.D;
    const OutputPixel at = output_pixel(chunk, tile.first_pixel + pixel);
    const int64_t inside = int64_t{at.p} * shape.Q + at.q;
    const int64_t map = at.n * samples + int64_t{d} * shape.taps() + tap;
    const PlannedSample<Coord>& done = planned[pixel * tile.units + unit];
    if (params.grad_offset != nullptr) {
      store_as(params.grad_offset, chunk.offset.dtype, 2 * map * plane + inside, done.sample.ly);
      store_as(params.grad_offset, chunk.offset.dtype, (2 * map + 1) * plane + inside,
               done.sample.lx);
    }
    if (params.grad_mask != nullptr) {
      store_as(params.grad_mask, chunk.mask.dtype, map * plane + inside, done.mask);
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
  const int32_t channels = shape.channels_per_offset_group();
  const int32_t groups = kThreads / lanes;
  const int32_t lane = threadIdx.x & (lanes - 1);
  // Every lane of a warp stays in the loop for the shuffles, with or without a sample of its own.
  const int32_t rounds = (tile.samples() + groups - 1) / groups;
  for (int32_t round = 0; round < rounds; ++round) {
    const int32_t i = round * groups + threadIdx.x / lanes;
    const bool active = i < tile.samples();
    const PlannedSample<Coord> at = planned[active ? i : 0];
    const Coord base = at.sample.modulated_fill(at.mask);
    Coord dot[4] = {};
    Element* column = columns + int64_t{at.pixel} * shape.column_length();
    for (int32_t c = lane * kVec; active && c < channels; c += lanes * kVec) {
      auto* place = reinterpret_cast<Vector<Element, kVec>*>(
          column + column_index(shape, at.tap, at.channel + c));
      const Vector<Element, kVec> gcol = *place;
      Vector<Element, kVec> corner[4], out;
      load_corners(input, shape, at, c, corner);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        Coord value = base;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Coord x = Coord(widen(corner[k].lane[j]));
          dot[k] += Coord(widen(gcol.lane[j])) * x;
          value += at.sample.weight(k) * at.mask * x;
        }
        narrow(value, out.lane[j]);
      }
      if (params.grad_input != nullptr) scatter(params, at, c, gcol);
      if (params.write_columns) *place = out;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) dot[k] = sum_over_lanes(dot[k], lanes);
    __syncwarp();
    if (active && lane == 0) {
      const Sample<Coord>& sample = at.sample;
      planned[i].sample.ly = at.mask * sample.d_dy(dot[0], dot[1], dot[2], dot[3]);
      planned[i].sample.lx = at.mask * sample.d_dx(dot[0], dot[1], dot[2], dot[3]);
      planned[i].mask = sample.interpolate(dot[0], dot[1], dot[2], dot[3]);
    }
  }
  __syncthreads();
  store_sampling_gradients(params, tile, planned);
}

}  // namespace

void launch_col2im(const Col2imParams& params, cudaStream_t stream) {
  const ColumnParams& chunk = params.chunk;
  if (chunk.pixels == 0) return;
  with_element_and_vector(chunk, [&](auto vector) {
    using V = decltype(vector);
    using Coord = typename CoordOf<typename V::element>::type;
    const int lanes = lanes_per_sample(chunk.shape.channels_per_offset_group() / V::kWidth);
    dcn_bprop_col2im_kernel<typename V::element, V::kWidth>
        <<<tile_grid(chunk), kThreads, tile_bytes<Coord>(chunk), stream>>>(params, lanes);
  });
  check_launch("dcn_bprop_col2im_kernel");
}

}  // namespace dcn
