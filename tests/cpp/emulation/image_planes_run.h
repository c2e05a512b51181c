// The image by blocks of channels, as the kernels of narrow offset groups read it, on the emulator.
#pragma once

#include "cuda/kernels/scatter/scatter_params.h"
#include "runs.h"

namespace emulation {

template <class Math>
DeviceArray<uint8_t> image_planes(const Convolution& conv) {
  using Element = typename Math::Element;
  auto pixels = to_device<Element>(conv.image);
  DeviceArray<uint8_t> planes(dcn::plane_bytes(conv.shape, sizeof(Element)));
  dcn::ImagePlanesParams params{};
  params.shape = conv.shape;
  params.layout = dcn::fused_layout(conv.shape, sizeof(Element));
  params.element_bytes = sizeof(Element);
  params.image = pixels.data();
  params.planes = planes.data();
  if (dcn::launch_image_planes(params, nullptr) != cudaSuccess || !planes.guards_intact()) {
    fail("the image is not laid out");
  }
  return planes;
}

}  // namespace emulation
