// What CUDA C++ has and C++ has not, for kernels that the emulator runs. The build includes it
// before any other header.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "device.h"

#undef __global__
#undef __device__
#undef __forceinline__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// Static inside a function, and `extern` may stand before it. CTAs that run at the same time are
// threads to the CPU, so that each has its own.
#define __shared__ thread_local
#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
inline const emulation::Index& blockDim = emulation::block_size;
inline const emulation::Index& gridDim = emulation::grid_size;

using std::max;
using std::min;

[[noreturn]] inline void __trap() { emulation::fail("trap"); }

template <typename To, typename From>
To emulated_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(uint32_t bits) { return emulated_cast<float>(bits); }
inline uint32_t __float_as_uint(float value) { return emulated_cast<uint32_t>(value); }
inline float __int_as_float(int32_t bits) { return emulated_cast<float>(bits); }
inline int32_t __float_as_int(float value) { return emulated_cast<int32_t>(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float value) { return value > 0.f ? std::min(value, 1.f) : 0.f; }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t take) {
  const uint64_t bytes = low | uint64_t{high} << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> (take >> 4 * i & 7u) * 8 & 0xffu) << 8 * i;
  }
  return result;
}
// Rounded down.
inline float __fadd_rd(float a, float b) {
  const double sum = static_cast<double>(a) + b;
  const float rounded = static_cast<float>(sum);
  return rounded > sum ? std::nextafterf(rounded, -INFINITY) : rounded;
}

// The toolkit's headers have these on the device only. Products of 16-bit values are exact in f32.
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  const float2 x = __half22float2(a), y = __half22float2(b), z = __half22float2(c);
  return __floats2half2_rn(std::fmaf(x.x, y.x, z.x), std::fmaf(x.y, y.y, z.y));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  const float2 x = __bfloat1622float2(a), y = __bfloat1622float2(b), z = __bfloat1622float2(c);
  return __floats2bfloat162_rn(std::fmaf(x.x, y.x, z.x), std::fmaf(x.y, y.y, z.y));
}

template <typename T>
T __ldg(const T* from) {
  emulation::check_access(from, sizeof(T));
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return __ldg(from);
}
template <typename T>
void __stcg(T* to, const T& value) {
  emulation::check_access(to, sizeof(T));
  *to = value;
}
template <typename T>
T atomicAdd(T* to, T value) {
  emulation::check_access(to, sizeof(T));
  const T before = *to;
  *to += value;
  return before;
}
template <typename T>
T atomicOr(T* to, T bits) {
  emulation::check_access(to, sizeof(T));
  return std::exchange(*to, *to | bits);
}
template <typename T>
T atomicMax(T* to, T value) {
  emulation::check_access(to, sizeof(T));
  return std::exchange(*to, std::max(*to, value));
}
inline int32_t atomicExch(int32_t* to, int32_t value) {
  emulation::check_access(to, sizeof *to);
  return std::exchange(*to, value);
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Masks are those of a whole warp.
inline void __syncthreads() {
  const emulation::Index& size = emulation::block_size;
  emulation::meet_block(0, size.x * size.y * size.z);
}
// Of the whole CTA: the count of who said so lies in memory between two meetings.
inline bool __syncthreads_or(bool vote) {
  static thread_local uint32_t votes;
  __syncthreads();
  if (emulation::thread() == 0) votes = 0;
  __syncthreads();
  votes += vote;
  __syncthreads();
  return votes != 0;
}
inline void __syncwarp() { emulation::meet_warp(emulation::Meeting::kSync, 0); }
inline uint32_t __ballot_sync(uint32_t, bool vote) {
  const uint64_t* votes = emulation::meet_warp(emulation::Meeting::kVote, vote);
  uint32_t result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= static_cast<uint32_t>(votes[lane]) << lane;
  return result;
}
inline bool __any_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(uint32_t mask, bool vote) { return !__any_sync(mask, !vote); }
template <typename T>
T emulated_shuffle(T value, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* all = emulation::meet_warp(emulation::Meeting::kShuffle, bits);
  std::memcpy(&value, all + from, sizeof value);
  return value;
}
inline int emulated_lane() { return static_cast<int>(emulation::thread() % 32); }
template <typename T>
T __shfl_sync(uint32_t, T value, int from, int width = 32) {
  return emulated_shuffle(value, emulated_lane() / width * width + from % width);
}
template <typename T>
T __shfl_xor_sync(uint32_t, T value, int mask) {
  return emulated_shuffle(value, emulated_lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(uint32_t, T value, int distance, int width = 32) {
  const int lane = emulated_lane();
  return emulated_shuffle(value, lane % width >= distance ? lane - distance : lane);
}
template <typename T>
T __shfl_down_sync(uint32_t, T value, int distance, int width = 32) {
  const int lane = emulated_lane();
  return emulated_shuffle(value, lane % width + distance < width ? lane + distance : lane);
}
template <typename T>
T __reduce_add_sync(uint32_t, T value) {
  const uint64_t* all =
      emulation::meet_warp(emulation::Meeting::kReduce, static_cast<uint64_t>(value));
  T sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += static_cast<T>(all[lane]);
  return sum;
}
template <typename T>
T __reduce_max_sync(uint32_t, T value) {
  const uint64_t* all =
      emulation::meet_warp(emulation::Meeting::kReduce, static_cast<uint64_t>(value));
  for (int lane = 0; lane < 32; ++lane) value = std::max(value, static_cast<T>(all[lane]));
  return value;
}
