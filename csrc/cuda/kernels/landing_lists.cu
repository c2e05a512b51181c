#include <algorithm>

#include "landing_work.cuh"

namespace dcn {
namespace {

LandingPlan plan_of(const LandingParams& params) {
  return landing_plan(params.shape, params.images, params.grad_channels);
}

LandingWork work_of(const LandingParams& params, const LandingPlan& plan) {
  const ConvShape& shape = params.shape;
  auto* const bytes = static_cast<uint8_t*>(params.workspace);
  LandingWork work;
  work.call = params;
  work.samples = static_cast<uint32_t>(plan.samples);
  work.bins = static_cast<uint32_t>(plan.bins);
  work.pixels = Divisor(shape.output_pixels_per_image());
  work.images = Divisor(params.images);
  work.output_width = Divisor(shape.Q);
  work.taps = Divisor(shape.taps());
  work.kernel_width = Divisor(shape.S);
  work.plane_bins = Divisor((shape.H + 1) * (shape.W + 1));
  work.bands = Divisor(std::max(plan.bands, 1));
  work.band_bins = plan.band_bins;
  work.runs = reinterpret_cast<int2*>(bytes + plan.runs);
  work.heavy_bins = reinterpret_cast<HeavyBin*>(bytes + plan.heavy_bins);
  work.heavy_rows = reinterpret_cast<float*>(bytes + plan.heavy_rows);
  work.places = reinterpret_cast<uint32_t*>(bytes + plan.heavy_rows);
  work.heavy_count = reinterpret_cast<uint32_t*>(bytes + plan.heavy_count);
  work.records = reinterpret_cast<LandingRecord*>(bytes + plan.records);
  work.counts = reinterpret_cast<uint32_t*>(bytes + plan.records);
  return work;
}

}  // namespace

LandingLists landing_lists(const LandingParams& params) {
  const LandingWork work = work_of(params, plan_of(params));
  return {work.records, work.runs, work.heavy_rows};
}

cudaError_t launch_landing_lists(const LandingParams& params, cudaStream_t stream) {
  const LandingPlan plan = plan_of(params);
  if (plan.bins == 0) return cudaSuccess;
  const LandingWork work = work_of(params, plan);
  cudaError_t error = cudaMemsetAsync(work.heavy_count, 0, sizeof(uint32_t), stream);
  if (error != cudaSuccess) return error;
  error = plan.bands > 0 ? launch_landing_planes(work, stream) : launch_landing_sort(work, stream);
  if (error != cudaSuccess) return error;
  return launch_landing_heavy(work, plan.most_heavy_bins, stream);
}

}  // namespace dcn
