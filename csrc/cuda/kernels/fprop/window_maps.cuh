// Offsets and masks of a warp's 16 pixels for WindowGather: those of a step are copied to shared
// memory a step ahead, 16 bytes a copy and past the L1, where each would leave a line for 32 bytes
// that nobody reads again. Maps that cannot be copied so are loaded value by value, when they are
// needed: pixels of several rows, maps that are not NCHW or not aligned.
#pragma once

#include "map_kind.cuh"

namespace dcn {

template <class Math>
class WindowMaps {
 public:
  __device__ __forceinline__ WindowMaps(const FpropParams& params, MapPlan& plan, int32_t group,
                                        int lane)
      : params_(params),
        plan_(plan),
        group_(group),
        lane_(lane),
        shared_((params.layout.offset_channels | params.layout.group_channels) * kElementBytes %
                    (2 * kVectorBytes) ==
                0) {}

  __device__ __forceinline__ bool shared() const { return shared_; }

  // The two vectors of a lane in a slice, in the order in which it loads them: neighbours, which
  // lie in one offset group if its channels are an even number of vectors. Two rows of a quad read
  // different ones, and with that all banks.
  static __device__ __forceinline__ int32_t vector_byte(int lane, int i) {
    const int32_t first = lane % 4 * (2 * kVectorBytes) + (lane & 4) * (kVectorBytes / 4);
    return i == 0 ? first : first ^ kVectorBytes;
  }

  // Calls with the warp's kind as a type: the loop has neither a register nor an instruction to
  // spare. kShared is `shared()`.
  template <bool kShared, class Call>
  __device__ __forceinline__ void in_kind(Call call) const {
    if (copied_) {
      in_kind_of<kShared, true>(call);
    } else {
      in_kind_of<kShared, false>(call);
    }
  }

  // `own`: the pixel of this lane's row; `pixel`: those of its two rows of a fragment.
  __device__ __forceinline__ void begin(OutputPixel own, const OutputPixel (&pixel)[2],
                                        FusedStep at) {
    slice_ = at.slice * kSliceBytes;
    tap_ = at.tap;
    const SamplingMap &offset = params_.offset, &mask = params_.mask;
    const OutputPixel first{__shfl_sync(~0u, own.n, 0), __shfl_sync(~0u, own.p, 0),
                            __shfl_sync(~0u, own.q, 0)};
    const bool side_by_side =
        __all_sync(~0u, own.n == first.n && own.p == first.p &&
                            own.q == first.q + window_pixel(lane_ % kWarpPixels));
    copied_ = side_by_side && is_copied(offset, first) && is_copied(mask, first) &&
              (mask.data == nullptr || is_short(offset) == is_short(mask));
    bytes_ = mask.data == nullptr || is_short(offset) == is_short(mask) ? bytes_of(offset) : 0;
    __syncwarp();  // the epilogue has read what lay here
    if (!copied_) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        plan_.pixel[0][r][lane_] = at_pixel(offset, pixel[r]);
        plan_.pixel[1][r][lane_] = at_pixel(mask, pixel[r]);
      }
      return;
    }
    plan_.row[0] = vector_of(offset, map_index(offset, first, 0));
    plan_.row[1] = vector_of(mask, map_index(mask, first, 0));
    const auto copy_first = [&](auto kind) {
      using Kind = decltype(kind);
      if (mask.data == nullptr) store_ones<Kind>();
      place<Kind>();
      locate<Kind>();
      copy_next<Kind>();
    };
    shared_ ? in_kind_of<true, true>(copy_first) : in_kind_of<false, true>(copy_first);
  }

  // Of the two rows, for each sample of a row.
  template <class Kind>
  __device__ __forceinline__ void read(float2 (&dy)[Kind::kSamples], float2 (&dx)[Kind::kSamples],
                                       float2 (&mask)[Kind::kSamples]) {
    if constexpr (!Kind::kCopied) {
#pragma unroll
      for (int i = 0; i < Kind::kSamples; ++i) {
        const int32_t map = first_map(slice_ + vector_byte(lane_, i)) + tap_;
        if (tap_ + 1 < params_.shape.taps()) {
          prefetch<Kind>(params_.offset, 0, 2 * map + 2);
          prefetch<Kind>(params_.offset, 0, 2 * map + 3);
          if (params_.mask.data != nullptr) prefetch<Kind>(params_.mask, 1, map + 1);
        }
        dy[i] = load_each<Kind>(params_.offset, 0, 2 * map);
        dx[i] = load_each<Kind>(params_.offset, 0, 2 * map + 1);
        mask[i] = params_.mask.data != nullptr ? load_each<Kind>(params_.mask, 1, map)
                                               : make_float2(1.f, 1.f);
      }
      advance<Kind>();
    } else {
      ptx::wait_for_copies();
      __syncwarp();
#pragma unroll
      for (int i = 0; i < Kind::kSamples; ++i) {
        const uint8_t* const from = plan_.copied + read_at_[i];
        dy[i] = pair<Kind>(from);
        dx[i] = pair<Kind>(from + Kind::kKindBytes);
        mask[i] = pair<Kind>(from + 2 * Kind::kKindBytes);
      }
      __syncwarp();
    }
  }

  // Asks for the maps of the next step.
  template <class Kind>
  __device__ __forceinline__ void copy_next() {
    if constexpr (Kind::kCopied) {
      const int copies = params_.mask.data != nullptr ? Kind::kCopies : Kind::kCopies / 3 * 2;
#pragma unroll
      for (int k = 0; 32 * k < Kind::kCopies; ++k) {
        const bool all_offsets = 32 * (k + 1) <= Kind::kCopies / 3 * 2;
        if (all_offsets || 32 * k + lane_ < copies) {
          const void* const map = is_mask<Kind>(k, lane_) ? params_.mask.data : params_.offset.data;
          ptx::copy_vector(to_ + 32 * k * kVectorBytes, static_cast<const uint4*>(map) + from_[k]);
        }
      }
      advance<Kind>();
    }
  }

 private:
  static constexpr int kElementBytes = sizeof(typename Math::Element);

  template <bool kShared, bool kCopied, class Call>
  __device__ __forceinline__ void in_kind_of(Call call) const {
    if constexpr (kElementBytes == 2) {
      if (bytes_ == 2) return call(MapKind<2, kShared, kCopied>());
      if constexpr (!kCopied) {
        if (bytes_ == 0) return call(MapKind<0, kShared, kCopied>());
      }
    }
    call(MapKind<4, kShared, kCopied>());
  }

  static __device__ __forceinline__ bool is_short(const SamplingMap& map) {
    return kElementBytes == 2 && map.dtype != Dtype::kF32;
  }
  static __device__ __forceinline__ int bytes_of(const SamplingMap& map) {
    return is_short(map) ? 2 : 4;
  }
  static __device__ __forceinline__ const uint8_t* at_pixel(const SamplingMap& map,
                                                            OutputPixel pixel) {
    return static_cast<const uint8_t*>(map.data) + map_index(map, pixel, 0) * bytes_of(map);
  }
  static __device__ __forceinline__ uint32_t vector_of(const SamplingMap& map, int64_t element) {
    return static_cast<uint32_t>(element / (kVectorBytes / bytes_of(map)));
  }
  // Whether a row of pixels from there on is whole vectors, in each channel.
  static __device__ __forceinline__ bool is_copied(const SamplingMap& map, OutputPixel first) {
    const int64_t strides = map_index(map, first, 0) | map.stride_c;
    return map.data == nullptr ||
           (map.stride_w == 1 && strides % (kVectorBytes / bytes_of(map)) == 0 &&
            reinterpret_cast<uintptr_t>(map.data) % kVectorBytes == 0);
  }

  // Of a byte of the group, or of the slice's begin where that is not there.
  __device__ __forceinline__ int32_t first_map(int32_t byte) const {
    const int32_t channels = params_.layout.group_channels;
    const int32_t there = byte < channels * kElementBytes ? byte : slice_;
    return params_.offset_group.quotient(group_ * channels + there / kElementBytes) *
           params_.shape.taps();
  }

  // Which copy: y offset, x offset or mask. Mostly the compiler knows.
  template <class Kind>
  static __device__ __forceinline__ int32_t kind_of(int k, int lane) {
    return (32 * k + lane) / (Kind::kCopies / 3);
  }
  template <class Kind>
  static __device__ __forceinline__ bool is_mask(int k, int lane) {
    constexpr int kOffsets = Kind::kCopies / 3 * 2;
    return 32 * k >= kOffsets || (32 * (k + 1) > kOffsets && kind_of<Kind>(k, lane) == 2);
  }
  // Where this lane's copies go, and where it reads.
  template <class Kind>
  __device__ __forceinline__ void place() {
    const int lane = unkept(lane_);  // once a tile
    to_ = ptx::shared_address(plan_.copied) + Kind::byte(lane / Kind::kParts, lane % Kind::kParts);
    const int32_t at = window_pixel(lane / 4) * Kind::kBytes;
#pragma unroll
    for (int i = 0; i < Kind::kSamples; ++i) {
      const int32_t vector = Kind::kShared ? lane % 4 : vector_byte(lane, i) / kVectorBytes;
      read_at_[i] = Kind::byte(vector, at / kVectorBytes) + at % kVectorBytes;
    }
  }
  // Where this lane's copies for a slice begin.
  template <class Kind>
  __device__ __forceinline__ void locate() {
    constexpr int kStride = kSliceBytes / Kind::kVectors;
    const int lane = unkept(lane_);  // once a slice: no register is kept for it
#pragma unroll
    for (int k = 0; 32 * k < Kind::kCopies; ++k) {
      const int32_t kind = kind_of<Kind>(k, lane), row = (32 * k + lane) / Kind::kParts;
      const int32_t map = first_map(slice_ + row % Kind::kVectors * kStride) + tap_;
      const bool of_mask = is_mask<Kind>(k, lane);
      from_[k] = plan_.row[of_mask] + lane % Kind::kParts +
                 (of_mask ? map : 2 * map + kind) * channel_vectors<Kind>(of_mask);
    }
  }
  template <class Kind>
  __device__ __forceinline__ uint32_t channel_vectors(bool of_mask) const {
    const SamplingMap& map = of_mask ? params_.mask : params_.offset;
    return static_cast<uint32_t>(map.stride_c) / (kVectorBytes / Kind::kBytes);
  }
  template <class Kind>
  __device__ __forceinline__ void advance() {
    if (++tap_ == params_.shape.taps()) {
      tap_ = 0;
      slice_ += kSliceBytes;
      if constexpr (Kind::kCopied) locate<Kind>();
    } else if constexpr (Kind::kCopied) {
#pragma unroll
      for (int k = 0; 32 * k < Kind::kCopies; ++k) {
        const bool of_mask = is_mask<Kind>(k, lane_);
        from_[k] += channel_vectors<Kind>(of_mask) * (of_mask ? 1 : 2);
      }
    }
  }

  // Of two pixels.
  template <class Kind>
  static __device__ __forceinline__ float2 pair(const uint8_t* from) {
    if constexpr (Kind::kBytes == 2) {
      return Math::wide_pair(*reinterpret_cast<const uint32_t*>(from));
    } else {
      return *reinterpret_cast<const float2*>(from);
    }
  }
  template <class Kind>
  __device__ __forceinline__ void store_ones() {
    uint32_t one = __float_as_uint(1.f);
    if constexpr (Kind::kBytes == 2) one = Math::pack(1.f, 1.f);
    if (lane_ < Kind::kCopies / 3) {
      reinterpret_cast<uint4*>(plan_.copied + 2 * Kind::kKindBytes)[lane_] = {one, one, one, one};
    }
  }

  template <class Kind>
  __device__ __forceinline__ const uint8_t* at_channel(const SamplingMap& map, int which, int r,
                                                       int32_t channel) const {
    const int bytes = Kind::kBytes == 0 ? bytes_of(map) : Kind::kBytes;
    return ptx::step_ahead(plan_.pixel[which][r][lane_], channel, map.stride_c * bytes);
  }
  // For the next step; the lane's other row is a neighbour.
  template <class Kind>
  __device__ __forceinline__ void prefetch(const SamplingMap& map, int which,
                                           int32_t channel) const {
    ptx::prefetch(at_channel<Kind>(map, which, 0, channel));
  }
  // The type is known beforehand: loads of either type, of which one is not done, would wait for
  // each other.
  template <class Kind>
  __device__ __forceinline__ float2 load_each(const SamplingMap& map, int which,
                                              int32_t channel) const {
    const int bytes = Kind::kBytes == 0 ? bytes_of(map) : Kind::kBytes;
    float value[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint8_t* const from = at_channel<Kind>(map, which, r, channel);
      if constexpr (kElementBytes == 2) {
        if (bytes == 2) {
          value[r] = Math::wide(__ldg(reinterpret_cast<const uint16_t*>(from)));
          continue;
        }
      }
      value[r] = __ldg(reinterpret_cast<const float*>(from));
    }
    return make_float2(value[0], value[1]);
  }

  const FpropParams& params_;
  MapPlan& plan_;
  const int32_t group_;
  const int lane_;
  const bool shared_;  // a lane's vectors share their samples
  bool copied_;
  int bytes_;            // of a value; 0 where offsets and masks differ
  int32_t tap_, slice_;  // that are next: slice: bytes from the group
  uint32_t from_[3];     // this lane's copies of that step: vectors from the map's begin
  uint32_t to_;          // the first of them
  int32_t read_at_[2];   // where this lane reads
};

}  // namespace dcn
