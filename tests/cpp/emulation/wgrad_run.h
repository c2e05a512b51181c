// The weight gradient of compute capability 9.0 on the emulator.
#pragma once

#include <vector>

#include "cuda/kernels/wgrad/wgrad_launch.h"
#include "wgrad_arrays.h"

namespace dcn {
template <class Math>
cudaError_t launch_wgrad_math(const WgradParams& params, cudaStream_t stream);
}  // namespace dcn

namespace emulation {

// [K, C/G, R, S].
template <class Math>
std::vector<float> run_wgrad(const Convolution& conv, int tile, int ctas, int merged = 1) {
  const dcn::WgradPlan plan = dcn::plan_wgrad(dcn::merged(conv.shape, merged), Math::kKind,
                                              /*multiprocessors=*/12, tile, ctas);
  WgradArrays<Math> arrays(conv, plan, merged);
  dcn::WgradParams params{};
  arrays.fill(conv, plan, params);
  if (dcn::launch_wgrad_math<Math>(params, nullptr) != cudaSuccess ||
      dcn::launch_wgrad_sum(params, Math::kKind, nullptr) != cudaSuccess) {
    fail("no such tile");
  }
  if (!arrays.weight.guards_intact() || !arrays.partial.guards_intact())
    fail("write outside an array");
  allow_nothing();
  return arrays.weight_on_host(conv.shape);
}

}  // namespace emulation
