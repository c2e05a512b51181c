#include <algorithm>

#include "landing_work.cuh"

namespace dcn {
namespace {

LandingPlan plan_of(const LandingParams& params) {
  return landing_plan(params.shape, params.images, params.grad_channels);
}

int32_t step_of(const SamplingMap& map, const ConvShape& shape) {
  const int64_t bytes = map.stride_w * size_of(map.dtype);
  const bool even = map.stride_h == map.stride_w * shape.Q && bytes <= INT32_MAX;
  return even ? static_cast<int32_t>(bytes) : -1;
}

LandingWork work_of(const LandingParams& params, const LandingPlan& plan) {
  const ConvShape& shape = params.shape;
  auto* const bytes = static_cast<uint8_t*>(params.workspace);
  LandingWork work;
  work.call = params;
  work.samples = static_cast<uint32_t>(plan.samples);
  work.bins = static_cast<uint32_t>(plan.bins);
  work.planes = static_cast<uint32_t>(plan.planes);
  work.pixels = Divisor(shape.output_pixels_per_image());
  work.images = Divisor(params.images);
  work.output_width = Divisor(shape.Q);
  work.taps = Divisor(shape.taps());
  work.kernel_width = Divisor(shape.S);
  work.plane_starts = Divisor((shape.H + 1) * (shape.W + 1) + 1);
  work.bands = Divisor(std::max(plan.bands, 1));
  work.band_bins = plan.band_bins;
  work.offset_step = step_of(params.offset, shape);
  work.mask_step = step_of(params.mask, shape);
  work.starts = reinterpret_cast<uint32_t*>(bytes + plan.starts);
  work.heavy_bins = reinterpret_cast<HeavyBin*>(bytes + plan.heavy_bins);
  work.heavy_rows = reinterpret_cast<float*>(bytes + plan.heavy_rows);
  work.places = reinterpret_cast<uint32_t*>(bytes + plan.heavy_rows);
  work.records = reinterpret_cast<LandingRecord*>(bytes + plan.records);
  return work;
}

}  // namespace

LandingLists landing_lists(const LandingParams& params) {
  const LandingWork work = work_of(params, plan_of(params));
  return {work.records, work.starts, work.heavy_rows};
}

cudaError_t launch_landing_lists(const LandingParams& params, cudaStream_t stream) {
  const LandingPlan plan = plan_of(params);
  if (plan.bins == 0) return cudaSuccess;
  const LandingWork work = work_of(params, plan);
  return plan.bands > 0 ? launch_landing_planes(work, stream) : launch_landing_sort(work, stream);
}

cudaError_t launch_heavy_sums(const LandingParams& params, cudaStream_t stream) {
  const LandingPlan plan = plan_of(params);
  return launch_landing_heavy(work_of(params, plan), plan.most_heavy_bins, stream);
}

}  // namespace dcn
