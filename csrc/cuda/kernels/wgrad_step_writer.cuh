// What a warpgroup of f32's weight gradient writes into shared memory for those that gather and
// multiply, some steps ahead of them: the plans of all units, and the gradient's tiles.
//
// wgmma takes tf32 operands along gemm_k only, pixels here, so that rows [pixel][channel] of the
// gradient become tiles [output channel][pixels of a step], swizzled; for 3xTF32 one of leading
// parts and one of trailing ones. Rows of a tile are channels permuted: row 32 * j + 8 * e + v is
// channel 32 * j + 4 * v + e, so that lanes that hold vectors v of four pixels store into 32 banks
// at once.
#pragma once

#include "ptx_sm90.cuh"
#include "wgrad_segments.cuh"

namespace dcn {

// A stage of the ring, and how often the ring has been walked.
struct StepStage {
  uint32_t index = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++index < kGradStages) return;
    index = 0;
    phase ^= 1u;
  }
};

// The ring: where the tiles and the plans of a stage are, and whether it is full, or empty again.
template <class Config>
struct StepRing {
  using Plan = StepPlan<Config::kStepPixels>;
  static constexpr int kWriters = 4;  // warps
  static constexpr int kParts = weight_parts(Config::Math::kKind);
  static constexpr int kPartBytes = Config::kChannels * kSliceBytes;  // of a tile
  static constexpr int kTileBytes = kParts * kPartBytes;
  static constexpr int kBytes =
      kGradStages * (kTileBytes + Config::kUnits * sizeof(Plan)) + kBarrierBytes;

  uint32_t tiles, barriers;
  Plan* plans;  // [stage][unit]

  __device__ __forceinline__ explicit StepRing(uint8_t* memory)
      : tiles(ptx::shared_address(memory)),
        barriers(tiles + kGradStages * kTileBytes),
        plans(reinterpret_cast<Plan*>(memory + kGradStages * kTileBytes + kBarrierBytes)) {}
  __device__ __forceinline__ void init() const {
    for (int i = 0; i < kGradStages; ++i) {
      ptx::barrier_init(full(i), kWriters);
      ptx::barrier_init(empty(i), Config::kWarps);
    }
    ptx::barrier_init_fence();
  }
  __device__ __forceinline__ uint32_t full(uint32_t stage) const { return barriers + stage * 8; }
  __device__ __forceinline__ uint32_t empty(uint32_t stage) const { return full(stage) + 64; }
};

template <class Config>
class StepWriter {
  using Ring = StepRing<Config>;

 public:
  __device__ __forceinline__ StepWriter(const WgradParams& params, const Ring& ring, int warp,
                                        int lane)
      : params_(params), ring_(ring), warp_(warp), lane_(lane) {}

  __device__ __forceinline__ void write(const WgradSegments<Config>& segment) {
    // This lane's first vector of a row, and how many channels the group has from there on.
    const int32_t channel = segment.first_k + lane_ % 8 * 4;
    const int32_t channels = params_.grad_layout.group_channels;
    const uint8_t* from = static_cast<const uint8_t*>(params_.grad) +
                          (int64_t{segment.group} * channels + channel) * 4;
    asm volatile("" : "+l"(from));  // one number, not a sum to be added up for each load
    Unit unit[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const WgradUnit at = segment.unit(params_, unit_of(i));
      unit[i].tap = at.tap;
      unit[i].map = map_of(params_, at);
    }
    OutputPixel pixel = fetch(segment, 0, unit);
#pragma unroll 1
    for (int32_t step = 0; step < segment.steps; ++step) {
      const int32_t left = segment.pixels_left(params_, step);
      uint4 vector[kRounds][kVectors];
      load(pixel, left, from, channels - channel, vector);
      ptx::barrier_wait(ring_.empty(stage_.index), stage_.phase ^ 1u);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        plan(pixel, lane_ < left, unit[i],
             ring_.plans[stage_.index * Config::kUnits + unit_of(i)]);
      }
      store(vector);
      ptx::async_proxy_fence();  // it waits for loads too, so new ones set out below
      __syncwarp();
      if (lane_ == 0) ptx::barrier_arrive(ring_.full(stage_.index));
      stage_.advance();
      pixel = fetch(segment, step + 1, unit);
    }
  }

 private:
  using Math = typename Config::Math;
  // A unit, and what the maps hold for this lane's pixel.
  struct Unit {
    int32_t tap, map;
    uint32_t dy, dx, modulation;
  };
  static constexpr int kUnits = Config::kUnits / Ring::kWriters;            // that a warp plans
  static constexpr int kVectors = Config::kChannels / 32;                   // of a lane and pixel
  static constexpr int kRounds = Config::kStepPixels / 4 / Ring::kWriters;  // of four pixels

  __device__ __forceinline__ int unit_of(int i) const { return i * Ring::kWriters + warp_; }
  __device__ __forceinline__ int row_of(int round) const {
    return 4 * (warp_ * kRounds + round) + lane_ / 8;
  }

  // This lane's pixel of a step, and beyond the last pixel that one; its offsets set out.
  __device__ __forceinline__ OutputPixel fetch(const WgradSegments<Config>& segment, int32_t step,
                                               Unit (&unit)[kUnits]) const {
    const uint32_t index = (segment.first + step) * Config::kStepPixels + lane_;
    const OutputPixel pixel =
        pixel_at(params_.shape, params_.walk, min(index, params_.pixels - 1));
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const MapCursor<Math> offset(params_.offset, pixel, 2 * unit[i].map);
      unit[i].dy = offset.load(0);
      unit[i].dx = offset.load(1);
      unit[i].modulation = MapCursor<Math>(params_.mask, pixel, unit[i].map).load(0);
    }
    return pixel;
  }

  __device__ __forceinline__ void plan(OutputPixel pixel, bool exists, const Unit& unit,
                                       typename Ring::Plan& plan) const {
    const FusedSample sample = sample_of<Math>(params_, pixel, exists, unit.tap, unit.dy, unit.dx,
                                               unit.modulation);
    plan.corner[lane_] = sample.corner;
    plan.weight[lane_] = Math::weights(sample.weight);
    const uint32_t outside = __ballot_sync(~0u, sample.outside);
    if (lane_ == 0) plan.outside = outside;
  }

  // This lane's vectors of the gradient. Zeros beyond the last pixel, which no infinity of another
  // one may replace, and for channels that the group has not.
  __device__ __forceinline__ void load(OutputPixel pixel, int32_t left, const uint8_t* from,
                                       int32_t channels,
                                       uint4 (&vector)[kRounds][kVectors]) const {
    const uint32_t row_bytes = params_.grad_layout.channels * 4;
    const uint32_t own = (pixel.n * params_.shape.P + pixel.p) * params_.shape.Q + pixel.q;
#pragma unroll
    for (int t = 0; t < kRounds; ++t) {
      const uint8_t* const row = from + uint64_t{__shfl_sync(~0u, own, row_of(t))} * row_bytes;
      const int32_t there = row_of(t) < left ? channels : 0;
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
        vector[t][j] = {0, 0, 0, 0};
        ptx::load_vector_if(32 * j < there, row + j * kSliceBytes, vector[t][j]);
      }
    }
  }

  __device__ __forceinline__ void store(const uint4 (&vector)[kRounds][kVectors]) const {
    const uint32_t tile =
        ring_.tiles + stage_.index * Ring::kTileBytes + lane_ % 8 * kSliceBytes + lane_ / 8 * 4;
#pragma unroll
    for (int t = 0; t < kRounds; ++t) {
      const uint32_t pixels = tile + ((warp_ * kRounds + t) ^ lane_ % 8) * kVectorBytes;
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const uint32_t to = pixels + (32 * j + 8 * e) * kSliceBytes;
          const uint32_t value = register_of(vector[t][j], e);
          if constexpr (Ring::kParts == 1) {
            ptx::store_word(to, Math::rounded(value));
          } else {
            uint32_t leading, trailing;
            split_tf32(value, leading, trailing);
            ptx::store_word(to, leading);
            ptx::store_word(to + Ring::kPartBytes, trailing);
          }
        }
      }
    }
  }

  const WgradParams& params_;
  const Ring& ring_;
  const int warp_, lane_;
  StepStage stage_;
};

}  // namespace dcn
