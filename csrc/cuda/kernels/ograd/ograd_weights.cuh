// The weight tiles of ograd on their way through shared memory: a ring of stages that bulk copies
// fill and warps release. A stage holds what a step, or one of kPanelParts parts of it, multiplies:
// 64 input channels of one tap, by up to kSlices slices of the output channels.
//
// The packed weight (pack_weight.cu) has those slices apart from one another, each a copy of its
// own. One thread asks for them, walking the order of the steps; every warp waits.
#pragma once

#include "../ptx_sm90.cuh"
#include "ograd_params.h"

namespace dcn {

constexpr int kOgradTileBytes = kOgradChannels * kSliceBytes;  // of a slice

// Which taps and channels a CTA serves, and how many steps of each kind it walks:
// convolution groups > panels of slices > chunks of channels > taps.
struct OgradWork {
  int32_t offset_group, first_tap, taps;
  int32_t first_group, first_channel;  // the channel is one of its convolution group
  int32_t panels, chunks;

  __device__ __forceinline__ void set(const OgradParams& params, int32_t index, int panel_slices) {
    const ConvShape& shape = params.shape;
    const int32_t parts = params.tap_parts.value;
    offset_group = params.tap_parts.quotient(index);
    const int32_t part = index - offset_group * parts;
    first_tap = part * shape.taps() / parts;
    taps = (part + 1) * shape.taps() / parts - first_tap;
    const int32_t channel = offset_group * shape.channels_per_offset_group();
    first_group = channel / shape.channels_per_group();
    first_channel = channel - first_group * shape.channels_per_group();
    panels = (params.grad_layout.slices + panel_slices - 1) / panel_slices;
    chunks = (params.channels + kOgradChannels - 1) / kOgradChannels;
  }
};

// What the thread that asks asks for next; in shared memory, so that no other thread loses
// registers for it.
struct OgradRequests {
  const uint8_t* tile;  // first slice of tap 0 of the chunk
  int32_t left;         // over all tiles of pixels
  int32_t part, tap, chunk, panel, group;
  uint32_t tap_at[kPlanTaps], slice_step[kPlanTaps];  // bytes
};

template <int kParts, int kSlices, int kPanelParts, int kStages, int kWarps>
class OgradRing {
 public:
  static constexpr int kStageBytes = kSlices * kParts * kOgradTileBytes;
  static constexpr int kBytes = kStages * kStageBytes + kBarrierBytes;

  __device__ __forceinline__ OgradRing(uint32_t shared, const OgradParams& params,
                                       const OgradWork& work, int32_t passes, int thread)
      : shared_(shared), thread_(thread) {
    // A panel that is short multiplies zeros by what its stage holds: zeros, if it is the only one.
    if (kPanelParts == 1 && params.grad_layout.slices < kSlices) {
      for (int i = thread; i < kStages * kStageBytes / 4; i += 32 * kWarps) {
        ptx::store_zero(shared + 4 * i);
      }
      ptx::async_proxy_fence();
    }
    if (thread_ == 0) {
      for (int i = 0; i < kStages; ++i) {
        ptx::barrier_init(full(i), 1);
        ptx::barrier_init(empty(i), kWarps);
      }
      ptx::barrier_init_fence();
      OgradRequests& next = requests();
      next.left = passes * params.groups * work.panels * work.chunks * work.taps * kPanelParts;
      next.part = next.tap = next.chunk = next.panel = next.group = 0;
      const FusedLayout& layout = params.grad_layout;
      const uint32_t step_bytes = kParts * part_stride(params);
      for (int i = 0; i < work.taps; ++i) {
        const int32_t tap = work.first_tap + i;
        const int32_t chunk_begin = tap / layout.chunk_taps * layout.chunk_taps;
        const int32_t chunk_taps = min(layout.chunk_taps, params.shape.taps() - chunk_begin);
        next.tap_at[i] = (chunk_begin * layout.slices + tap - chunk_begin) * step_bytes;
        next.slice_step[i] = chunk_taps * step_bytes;
      }
      next.tile = tile_at(params, work, 0, 0);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void start(const OgradParams& params, const OgradWork& work) {
    if (thread_ != 0) return;
    for (int i = 0; i < kStages - 1; ++i) ask(i, params, work);
  }
  __device__ __forceinline__ uint32_t wait() {
    ptx::barrier_wait(full(stage_), phase_);
    return __shfl_sync(~0u, shared_ + stage_ * kStageBytes, 0);
  }
  // This warpgroup's multiplications with the stage have ended. The stage of the step before, which
  // every warp has released or soon will, is filled again.
  __device__ __forceinline__ void release(const OgradParams& params, const OgradWork& work) {
    if (thread_ % 32 == 0) ptx::barrier_arrive(empty(stage_));
    if (thread_ == 0) {
      const uint32_t before = stage_ == 0 ? kStages - 1 : stage_ - 1;
      // A stage never used lets pass.
      ptx::barrier_wait(empty(before), before > stage_ ? phase_ ^ 1u : phase_);
      ask(before, params, work);
    }
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1u;
    }
  }

 private:
  __device__ __forceinline__ uint32_t full(uint32_t i) const {
    return shared_ + kStages * kStageBytes + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }
  static __device__ __forceinline__ OgradRequests& requests() {
    __shared__ OgradRequests requests;
    return requests;
  }

  // Bytes of a part of a step of the packed weight.
  static __device__ __forceinline__ uint32_t part_stride(const OgradParams& params) {
    return tiles_of(params.shape.channels_per_group(), kPieceChannels) * kOgradTileBytes;
  }
  // The tile of tap 0, first slice.
  static __device__ __forceinline__ const uint8_t* tile_at(const OgradParams& params,
                                                           const OgradWork& work, int32_t group,
                                                           int32_t chunk) {
    const int32_t channel = work.first_channel + chunk * kOgradChannels;
    return static_cast<const uint8_t*>(params.weight) +
           int64_t{work.first_group + group} * params.grad_layout.steps * kParts *
               part_stride(params) +
           channel / kPieceChannels * kOgradTileBytes;
  }

  __device__ __forceinline__ void ask(uint32_t stage, const OgradParams& params,
                                      const OgradWork& work) {
    OgradRequests& next = requests();
    if (next.left == 0) return;
    --next.left;
    const int32_t all = params.grad_layout.slices;
    const int32_t first = min((next.panel * kPanelParts + next.part) * kSlices, all - 1);
    const int32_t slices = min(kSlices, all - first);
    const uint32_t step = next.slice_step[next.tap];
    const uint8_t* from = next.tile + next.tap_at[next.tap] + int64_t{first} * step;
    uint32_t to = shared_ + stage * kStageBytes;
    // Behind others a short part has the last slice again: what was there before is of another tap,
    // and 0 times it may be NaN.
    const int32_t copies = kSlices > 1 && work.panels * kPanelParts > 1 ? kSlices : slices;
    ptx::expect_bytes(full(stage), copies * kParts * kOgradTileBytes);
#pragma unroll 1
    for (int s = 0; s < copies; ++s) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        ptx::bulk_copy_expected(to, from + part * part_stride(params), kOgradTileBytes,
                                full(stage));
        to += kOgradTileBytes;
      }
      if (kSlices == 1 || s + 1 < slices) from += step;
    }
    if (++next.part < kPanelParts) return;
    next.part = 0;
    if (++next.tap < work.taps) return;
    next.tap = 0;
    if (++next.chunk == work.chunks) {
      next.chunk = 0;
      if (++next.panel == work.panels) {
        next.panel = 0;
        if (++next.group == params.groups) next.group = 0;
      }
    }
    next.tile = tile_at(params, work, next.group, next.chunk);
  }

  const uint32_t shared_;
  const int thread_;
  uint32_t stage_ = 0, phase_ = 0;
};

}  // namespace dcn
