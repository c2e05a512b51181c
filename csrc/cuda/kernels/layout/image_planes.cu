// The image by blocks of channels, from NHWC: a thread writes a block of one pixel.
//
// A CTA has some pixels and all blocks, a warp 4 blocks of 8 pixels at a time: it reads whole
// sectors of memory, and writes whole lines.
#include "../fused/fused_math.cuh"
#include "../kernel_setup.h"
#include "../ptx_sm90.cuh"
#include "../sampling.cuh"
#include "../scatter/scatter_params.h"

namespace dcn {
namespace {

constexpr int kPlaneThreads = 256;
constexpr int kPlanePixels = 32;
constexpr int kLinePixels = 8, kLineBlocks = 4;  // of a warp

template <typename Element>
__global__ void __launch_bounds__(kPlaneThreads)
    dcn_image_planes_kernel(const __grid_constant__ ImagePlanesParams params) {
  using Block = Vector<Element, kBlockChannels>;
  ptx::launch_dependents();
  const ConvShape& shape = params.shape;
  const ScatterBlocks blocks = scatter_blocks(params.layout, params.layout, sizeof(Element));
  const int32_t planes = shape.D * blocks.count;
  const int64_t pixels = int64_t{shape.H} * shape.W;
  const int64_t per_image = (pixels + kPlanePixels - 1) / kPlanePixels;
  const int64_t n = blockIdx.x / per_image;
  constexpr int kWarpsAcross = kPlanePixels / kLinePixels;
  constexpr int kWarpsDown = kPlaneThreads / 32 / kWarpsAcross;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t pixel = (blockIdx.x - n * per_image) * kPlanePixels +
                        warp % kWarpsAcross * kLinePixels + lane % kLinePixels;
  if (pixel >= pixels) return;
  const Element* const from =
      static_cast<const Element*>(params.image) + (n * pixels + pixel) * shape.C;
  const bool whole = shape.C % kBlockChannels == 0 && params.layout.segment % kBlockChannels == 0 &&
                     reinterpret_cast<uintptr_t>(params.image) % kVectorBytes == 0;
  for (int32_t plane = warp / kWarpsAcross * kLineBlocks + lane / kLinePixels; plane < planes;
       plane += kWarpsDown * kLineBlocks) {
    const int32_t offset_group = plane / blocks.count;
    const ScatterBlock at =
        scatter_block(params.layout, blocks, offset_group, plane - offset_group * blocks.count);
    const int32_t padded = at.channel - at.group * params.layout.group_channels;
    const int32_t first =
        at.group * shape.channels_per_group() + unpadded_channel(params.layout, padded);
    Block value = {};
    if (whole) {
      value = *reinterpret_cast<const Block*>(from + first);
    } else {
#pragma unroll
      for (int c = 0; c < kBlockChannels; ++c) {
        if (c < at.channels) value.lane[c] = from[first + c];
      }
    }
    static_cast<Block*>(params.planes)[(n * planes + plane) * pixels + pixel] = value;
  }
}

}  // namespace

cudaError_t launch_image_planes(const ImagePlanesParams& params, cudaStream_t stream) {
  const ConvShape& shape = params.shape;
  const int64_t ctas = shape.N * tiles_of(int64_t{shape.H} * shape.W, kPlanePixels);
  const dim3 grid(static_cast<unsigned>(ctas));
  if (params.element_bytes == 2) {
    return launch_kernel<dcn_image_planes_kernel<uint16_t>>(grid, kPlaneThreads, 0, stream, params);
  }
  return launch_kernel<dcn_image_planes_kernel<uint32_t>>(grid, kPlaneThreads, 0, stream, params);
}

}  // namespace dcn
