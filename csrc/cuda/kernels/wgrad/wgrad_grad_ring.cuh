// Tiles of the gradient in shared memory, [pixels of a step][output channels of a tile]: a ring
// that all threads fill, each warp with pixels that it has planned, and that all warps read.
//
// Config says how a tile is laid out (`place`), and into how many parts the pixels of a step are
// cut for planning (kRowParts): warp w plans part w % kRowParts, and shares it with the warps w + i
// * kRowParts.
#pragma once

#include "../ptx_sm90.cuh"
#include "wgrad_segments.cuh"

namespace dcn {

template <class Config>
class GradRing {
 public:
  // `tiles` at a multiple of 128 bytes.
  __device__ __forceinline__ GradRing(uint32_t tiles, uint32_t barriers, int thread)
      : tiles_(tiles), barriers_(barriers) {
    if (thread == 0) {
      for (int i = 0; i < Config::kStages; ++i) {
        ptx::barrier_init(full(i), Config::kThreads);
        ptx::barrier_init(empty(i), Config::kWarps);
      }
      ptx::barrier_init_fence();
    }
    __syncthreads();
  }

  // Whether the group has the channels of this lane's vectors.
  static __device__ __forceinline__ bool has_vector(const WgradParams& params,
                                                    const WgradSegments<Config>& segment,
                                                    int lane) {
    return segment.first_k + lane % kRowVectors * (kVectorBytes / kElementBytes) <
           params.grad_layout.group_channels;
  }
  // This lane's vector of the first pixel. Channels that the group has not are never stored: any
  // will do.
  static __device__ __forceinline__ const uint8_t* first_vector(
      const WgradParams& params, const WgradSegments<Config>& segment, int lane) {
    const int32_t channel = segment.first_k + lane % kRowVectors * (kVectorBytes / kElementBytes);
    const int32_t group_channels = params.grad_layout.group_channels;
    const int32_t there = channel < group_channels ? channel : segment.first_k;
    const uint8_t* at = static_cast<const uint8_t*>(params.grad) +
                        (int64_t{segment.group} * group_channels + there) * kElementBytes;
    asm volatile("" : "+l"(at));  // one number, not a sum to be added up for each copy
    return at;
  }

  // This warp's share of the next tile. `left`: output pixels from the step's first on; those
  // beyond the last are zeros, which no infinity of another pixel may replace.
  __device__ __forceinline__ void fill(const WgradParams& params,
                                       const StepPlan<Config::kPlanPixels>& plan,
                                       const uint8_t* first_vector, int32_t left, int warp,
                                       int lane) {
    ptx::barrier_wait(empty(filled_), filled_phase_ ^ 1u);
    const int share = warp / Config::kRowParts * kShare;
    const int row0 = lane / kRowVectors * kCopies + share;
    const int part = warp % Config::kRowParts * Config::kPlanPixels;
    const uint32_t row_bytes = params.grad_layout.channels * kElementBytes;
    // Rows of a share differ in bits that its first row has not: their vectors lie where its own
    // do, some rows on, and changed places within 128 bytes.
    const uint32_t first =
        tiles_ + filled_ * Config::kGradTileBytes + Config::place(part + row0, lane % kRowVectors);
    const int32_t rows = left - part - row0;
    uint4 pixels = {};
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (share + i >= kCopies) break;
      const uint32_t ahead = Config::place(i, 0), swizzle = ahead % kSliceBytes;
      if (kShare % 4 == 0 && i % 4 == 0) {
        pixels = *reinterpret_cast<const uint4*>(plan.pixel + row0 + i);
      }
      const uint32_t pixel = kShare % 4 == 0 ? register_of(pixels, i % 4) : plan.pixel[row0 + i];
      ptx::copy_vector_or_zeros((first ^ swizzle) + (ahead - swizzle),
                                first_vector + uint64_t{pixel} * row_bytes, i < rows);
    }
    ptx::barrier_arrive_after_copies(full(filled_));
    advance(filled_, filled_phase_);
  }

  // The tile of this step, once it is there.
  __device__ __forceinline__ uint32_t wait() {
    ptx::barrier_wait(full(used_), used_phase_);
    const uint32_t tile = tiles_ + used_ * Config::kGradTileBytes;
    advance(used_, used_phase_);
    return tile;
  }
  // This warp has done with the tile that the last wait gave, or with the one before.
  __device__ __forceinline__ void release_last(int lane) { release(1, lane); }
  __device__ __forceinline__ void release_previous(int lane) { release(2, lane); }

 private:
  static constexpr int kElementBytes = Config::kElementBytes;
  static constexpr int kRowVectors = Config::kChannels * kElementBytes / kVectorBytes;
  // Copies for the pixels of a part, a vector a lane, and those of one of the warps that share it.
  static constexpr int kCopies = Config::kPlanPixels * kRowVectors / 32;
  static constexpr int kShare = tiles_of(kCopies, Config::kWarps / Config::kRowParts);

  static __device__ __forceinline__ void advance(uint32_t& stage, uint32_t& phase) {
    if (++stage < Config::kStages) return;
    stage = 0;
    phase ^= 1u;
  }
  __device__ __forceinline__ void release(uint32_t back, int lane) {
    if (lane != 0) return;
    ptx::barrier_arrive(empty(used_ >= back ? used_ - back : used_ + Config::kStages - back));
  }
  __device__ __forceinline__ uint32_t full(uint32_t i) const { return barriers_ + i * 8; }
  __device__ __forceinline__ uint32_t empty(uint32_t i) const { return full(i) + 64; }

  const uint32_t tiles_, barriers_;
  uint32_t filled_ = 0, filled_phase_ = 0, used_ = 0, used_phase_ = 0;
};

}  // namespace dcn
