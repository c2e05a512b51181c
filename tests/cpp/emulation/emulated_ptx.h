// ptx_sm80.cuh, ptx_sm90.cuh and ptx_cluster.cuh for the emulator.
#pragma once

#include "cuda_language.h"
#include "emulated_tensor_map.h"

namespace dcn::ptx {

inline uint32_t shared_address(const void* pointer) { return emulation::shared_address(pointer); }

inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  emulation::barrier_init(barrier, arrivals);
}
inline void barrier_init_fence() {}
inline void async_proxy_fence() {}
inline void barrier_arrive(uint32_t barrier) { emulation::barrier_arrive(barrier); }
inline void barrier_wait(uint32_t barrier, uint32_t phase) {
  emulation::barrier_wait(barrier, phase);
}
inline bool barrier_passes(uint32_t barrier, uint32_t phase) {
  return emulation::barrier_passes(barrier, phase);
}
inline void barrier_poll(uint32_t barrier, uint32_t phase) {
  emulation::barrier_wait(barrier, phase);
}
inline void meet(int id, int threads) { emulation::meet_block(id, threads); }

inline void copy_vector(uint32_t to, const void* from) { emulation::copy_vector(to, from, true); }
inline void copy_vector_or_zeros(uint32_t to, const void* from, bool copies) {
  emulation::copy_vector(to, from, copies);
}
inline void wait_for_copies() { emulation::wait_for_copies(); }
inline void barrier_arrive_after_copies(uint32_t barrier) {
  emulation::barrier_arrive_after_copies(barrier);
}
inline void expect_bytes(uint32_t barrier, uint32_t bytes) {
  emulation::barrier_expect(barrier, bytes);
}
inline void bulk_copy_expected(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  emulation::bulk_copy(to, from, bytes, barrier);
}

inline uint8_t* shared_part(uint8_t* begin, uint32_t offset) { return begin + offset; }
inline void bulk_add(float* to, uint32_t from, uint32_t bytes) {
  emulation::bulk_add(to, from, bytes);
}
inline void tensor_copy(uint32_t to, const TensorMap& map, const int32_t (&first)[4],
                        uint32_t barrier) {
  if (map.rank != 4) emulation::fail("a box of another rank");
  emulation::tensor_copy(to, map, first, barrier);
}
inline void bulk_add_commit() {}
inline void bulk_add_wait() { emulation::finish_bulk_adds(); }

inline void bulk_prefetch(const void* from, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0) {
    emulation::fail("misaligned prefetch");
  }
  emulation::check_access(from, bytes);
}

inline uint4 load_shared(uint32_t from) {
  if (from % 16 != 0) emulation::fail("misaligned load");
  uint4 vector;
  std::memcpy(&vector, emulation::shared_at(from), 16);
  return vector;
}
inline uint4 load_vector(const void* from) {
  emulation::check_access(from, 16);
  uint4 vector;
  std::memcpy(&vector, from, 16);
  return vector;
}
inline void store_vector(uint32_t to, const uint32_t (&v)[4]) {
  if (to % 16 != 0) emulation::fail("misaligned store");
  std::memcpy(emulation::shared_at(to), v, 16);
}
inline void load_transposed(uint32_t from, uint32_t (&v)[4]) {
  if (from % 16 != 0) emulation::fail("misaligned load");
  const int lane = emulated_lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t number[2];
    for (int row = 0; row < 2; ++row) {
      const uint32_t begin = __shfl_sync(~0u, from, matrix * 8 + lane % 4 * 2 + row);
      std::memcpy(&number[row], emulation::shared_at(begin) + lane / 4 * 2, 2);
    }
    v[matrix] = number[0] | uint32_t{number[1]} << 16;
  }
}
inline void store_word(uint32_t to, uint32_t v) { std::memcpy(emulation::shared_at(to), &v, 4); }
inline void store_zero(uint32_t to) { std::memset(emulation::shared_at(to), 0, 4); }

inline uint2 load_pair(uint32_t from) {
  if (from % 8 != 0) emulation::fail("misaligned load");
  uint2 pair;
  std::memcpy(&pair, emulation::shared_at(from), sizeof pair);
  return pair;
}
template <int kWords>
void store_words(uint32_t to, const uint32_t (&v)[kWords]) {
  if (to % sizeof v != 0) emulation::fail("misaligned store");
  std::memcpy(emulation::shared_at(to), v, sizeof v);
}

inline void take(uint32_t&) {}
inline void prefetch(const void* from) { emulation::check_access(from, 1); }

inline uint32_t round_to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}
inline int of_warp(int value) {
  if (__shfl_sync(~0u, value, 0) != value) emulation::fail("lanes differ");
  return value;
}
inline bool elected() {
  __syncwarp();
  return emulated_lane() == 0;
}
// From the lane's own.
inline int kept(int value) { return __shfl_sync(~0u, value, emulated_lane()); }
template <typename T>
T settled(T value) {
  return value;
}
inline int unkept(int value) { return value; }
inline uint32_t shared_fetch_add_if(bool exists, uint32_t to, uint32_t value) {
  if (!exists) return 0;
  uint32_t before;
  std::memcpy(&before, emulation::shared_at(to), sizeof before);
  store_word(to, before + value);
  return before;
}
inline void shared_add_if(bool exists, uint32_t to, uint32_t value) {
  shared_fetch_add_if(exists, to, value);
}
inline const uint8_t* step_ahead(const uint8_t* from, int32_t steps, int32_t bytes) {
  return from + int64_t{steps} * bytes;
}

inline void cluster_arrive() {
  __syncwarp();  // it is for whole warps
  emulation::cluster_arrive();
}
inline void cluster_arrive_relaxed() { cluster_arrive(); }
inline void cluster_wait() {
  __syncwarp();
  emulation::cluster_wait();
}
inline uint32_t cluster_address(uint32_t address, int32_t rank) {
  return emulation::cluster_address(address, static_cast<unsigned>(rank));
}
inline float4 load_of_cluster(uint32_t from) {
  if (from % 16 != 0) emulation::fail("misaligned load");
  float4 vector;
  std::memcpy(&vector, emulation::cluster_at(from), sizeof vector);
  return vector;
}
inline void give(uint32_t to, float4 sums, uint32_t barrier) {
  if (to % 16 != 0) emulation::fail("misaligned store");
  emulation::give(to, &sums, sizeof sums, barrier);
}
inline void wait_for_cluster(uint32_t barrier, uint32_t phase) {
  emulation::barrier_wait(barrier, phase);
}
inline void store_sums(uint32_t to, float4 sums) {
  if (to % 16 != 0) emulation::fail("misaligned store");
  std::memcpy(emulation::shared_at(to), &sums, sizeof sums);
}

// Kernels follow one another.
inline void launch_dependents() {}
inline void wait_for_previous_grid() {}

template <int kBefore, int kRegisters>
void set_registers() {}

inline void wgmma_fence() {}
inline void wgmma_commit() { emulation::commit_multiplications(); }
template <int kSums, int kFragments>
void wgmma_wait(float (&)[kSums], uint32_t (&)[kFragments]) {
  emulation::finish_multiplications(0);
}
template <int kSums>
void wgmma_wait(float (&)[kSums]) {
  emulation::finish_multiplications(0);
}
template <int kSums>
void wgmma_wait_but_one(float (&)[kSums]) {
  emulation::finish_multiplications(1);
}

// A descriptor is an address / 16: the rest of it, sizes and the swizzle, is the same for all.
inline uint64_t tile_descriptor(uint32_t tile) {
  if (tile % 1024 != 0) emulation::fail("misaligned tile");
  return tile >> 4;
}
inline uint64_t panel_descriptor(uint32_t tile) { return tile_descriptor(tile); }

// A stride, too.
inline uint64_t block_descriptor(uint32_t block, uint32_t stride) {
  if (block % 16 != 0 || stride % 16 != 0) emulation::fail("misaligned blocks");
  return uint64_t{stride >> 4} << 32 | block >> 4;
}

template <emulation::Operand kOperand>
struct Wgmma {
  template <int kSums>
  static void mma(float (&sums)[kSums], const uint32_t& a0, const uint32_t& a1, const uint32_t& a2,
                  const uint32_t& a3, uint64_t b, bool add) {
    const uint32_t* const a[4] = {&a0, &a1, &a2, &a3};
    emulation::multiply_registers(kOperand, sums, kSums, a, static_cast<uint32_t>(b << 4), add);
  }
};
using WgmmaF16 = Wgmma<emulation::Operand::kF16>;
using WgmmaBF16 = Wgmma<emulation::Operand::kBF16>;
using WgmmaTF32 = Wgmma<emulation::Operand::kTf32>;

template <emulation::Operand kOperand>
struct PanelWgmma {
  template <int kSums>
  static void mma(float (&sums)[kSums], uint64_t a, uint64_t b) {
    emulation::multiply_panels(kOperand, sums, kSums, static_cast<uint32_t>(a << 4),
                               static_cast<uint32_t>(b << 4));
  }
};
using PanelWgmmaF16 = PanelWgmma<emulation::Operand::kF16>;
using PanelWgmmaBF16 = PanelWgmma<emulation::Operand::kBF16>;

template <emulation::Operand kOperand>
struct BlockWgmma {
  template <int kSums>
  static void mma(float (&sums)[kSums], uint64_t a, uint64_t b) {
    emulation::multiply_blocks(kOperand, sums, kSums, static_cast<uint32_t>(a << 4),
                               static_cast<uint32_t>(b << 4), static_cast<uint32_t>(b >> 32) << 4);
  }
};
using BlockWgmmaF16 = BlockWgmma<emulation::Operand::kF16>;
using BlockWgmmaBF16 = BlockWgmma<emulation::Operand::kBF16>;

template <emulation::Operand kOperand>
struct TileWgmma {
  template <int kSums>
  static void mma(float (&sums)[kSums], uint64_t a, uint64_t b, bool add) {
    emulation::multiply_tiles(kOperand, sums, kSums, static_cast<uint32_t>(a << 4),
                              static_cast<uint32_t>(b << 4), add);
  }
};
using TileWgmmaF16 = TileWgmma<emulation::Operand::kF16>;
using TileWgmmaBF16 = TileWgmma<emulation::Operand::kBF16>;

template <emulation::Operand kOperand>
struct Mma {
  static void mma(float* sums, const uint32_t* a, uint32_t b0, uint32_t b1) {
    emulation::multiply_warp(kOperand, sums, a, b0, b1);
  }
};
using MmaF16 = Mma<emulation::Operand::kF16>;
using MmaBF16 = Mma<emulation::Operand::kBF16>;
using MmaTF32 = Mma<emulation::Operand::kTf32>;

}  // namespace dcn::ptx
