// The ways in which WindowMaps holds a warp's maps, and what that takes of shared memory.
#pragma once

#include "../fused/fused_gather.cuh"

namespace dcn {

// How a warp's maps are held: values of kBytes, copied to shared memory or loaded when they are
// needed. 0: loaded, offsets and masks of different types. kShared: the two vectors of a lane share
// their samples.
template <int kBytes_, bool kShared_, bool kCopied_ = true>
struct MapKind {
  static constexpr int kBytes = kBytes_;
  static constexpr bool kCopied = kCopied_;
  static constexpr bool kShared = kShared_;
  static constexpr int kSamples = kShared ? 1 : 2;  // of a lane, for each of its two rows
  static constexpr int kVectors = 4 * kSamples;     // of a slice, or pairs of them
  static constexpr int kRowBytes = kWarpPixels * kBytes;
  static constexpr int kKindBytes = kVectors * kRowBytes;  // y offsets, x offsets, masks
  static constexpr int kParts = kRowBytes / kVectorBytes;
  static constexpr int kCopies = 3 * kVectors * kParts;

  // Where a part of a row lies, rows of one kind after the other: turned, so that lanes that read
  // at the same time meet all banks.
  static __device__ __forceinline__ int32_t byte(int32_t row, int32_t part) {
    const int32_t turned = (part ^ (row % kVectors * kRowBytes / kSliceBytes)) & (kParts - 1);
    return row * kRowBytes + turned * kVectorBytes;
  }
};

struct MapPlan {
  uint32_t row[2];  // offset and mask: channel 0 at the warp's first pixel, in vectors
  union {
    alignas(kVectorBytes) uint8_t copied[MapKind<4, false>::kKindBytes * 3];
    const uint8_t* pixel[2][2][32];  // channel 0 at a lane's rows
  };
};

}  // namespace dcn
