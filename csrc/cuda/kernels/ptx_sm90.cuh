// The instructions of compute capability 9.0 that CUDA C++ has no name for: bulk copies with
// their barriers, dependent launches, and the warpgroup's matrix multiplication.
#pragma once

#include <cstdint>

#include "ptx_sm80.cuh"
#include "tensor_map.h"

#if !defined(DCN_EMULATION)

namespace dcn::ptx {

// Makes this thread's stores to shared memory visible to the copy engine and to wgmma.
__device__ __forceinline__ void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  async_proxy_fence();
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

// A number that is the same in all lanes of a warp, which the compiler then knows.
__device__ __forceinline__ int of_warp(int value) { return __reduce_or_sync(~0u, value); }
// Whether this is the one lane of the warp that does something for all.
__device__ __forceinline__ bool elected() {
  uint32_t is;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(is));
  return is != 0;
}

// Whether a wait for this phase would end at once.
__device__ __forceinline__ bool barrier_passes(uint32_t barrier, uint32_t phase) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(barrier), "r"(phase)
      : "memory");
  return done != 0;
}

// The barrier's phase completes when this many bytes are there, besides its arrivals: this is one.
__device__ __forceinline__ void expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// One contiguous copy from global to shared memory, of bytes that the barrier expects.
__device__ __forceinline__ void bulk_copy_expected(uint32_t to, const void* from, uint32_t bytes,
                                                   uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// The same of a box of an array that begins at these coordinates; the barrier expects all bytes of
// the box.
__device__ __forceinline__ void tensor_copy(uint32_t to, const TensorMap& map,
                                            const int32_t (&first)[4], uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(first[0]), "r"(first[1]), "r"(first[2]), "r"(first[3]), "r"(barrier)
      : "memory");
}

// Shared memory from `offset` bytes behind its begin on. The compiler keeps where that is: it would
// rather compute it anew wherever it is used, by seven instructions.
__device__ __forceinline__ uint8_t* shared_part(void* begin, uint32_t offset) {
  uint32_t address = shared_address(begin) + offset;
  asm volatile("" : "+r"(address));
  return static_cast<uint8_t*>(__cvta_shared_to_generic(address));
}

// Adds sums of shared memory to as many in memory, in no order and not at once: the copy engine
// reads them. Whole vectors of 16 bytes. Threads that have asked for it may write over the sums
// once they have waited.
__device__ __forceinline__ void bulk_add(float* to, uint32_t from, uint32_t bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
      "r"(from), "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void bulk_add_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ __forceinline__ void bulk_add_wait() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Towards the L2, whole vectors. Older devices load what they need when they need it.
__device__ __forceinline__ void bulk_prefetch(const void* from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void store_sums(uint32_t to, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}

// Programmatic dependent launch: the next kernel of the stream may start now; wait until the
// previous one has ended and its writes are visible. Older devices start kernels one by one.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous_grid() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Registers of each thread of this warpgroup from here on, multiples of 8: some warpgroups give up
// what others take.
template <int kBefore, int kRegisters>
__device__ __forceinline__ void set_registers() {
  if constexpr (kRegisters < kBefore) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
  } else if constexpr (kRegisters > kBefore) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }
}
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits for every multiplication of this warpgroup, and tells the compiler that the accumulators
// and the fragments were in use until here.
template <int kSums, int kFragments>
__device__ __forceinline__ void wgmma_wait(float (&sums)[kSums], uint32_t (&a)[kFragments]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kFragments; ++i) asm volatile("" : "+r"(a[i])::"memory");
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

template <int kSums>
__device__ __forceinline__ void wgmma_wait(float (&sums)[kSums]) {
  uint32_t none[1] = {};
  wgmma_wait(sums, none);
}

// Waits for all but the last group of multiplications that was committed.
template <int kSums>
__device__ __forceinline__ void wgmma_wait_but_one(float (&sums)[kSums]) {
  asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Descriptor of a tile of rows of 128 bytes in shared memory, swizzled, gemm_k along the row. A
// multiplication further along gemm_k adds its byte offset / 16.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;  // stride between groups of 8 rows
  constexpr uint64_t kUnusedLeading = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnusedLeading | ((tile & 0x3ffff) >> 4);
}

// Descriptor of a tile whose rows of 128 bytes lie along gemm_k: 64 rows to a panel of 64 channels,
// swizzled; the next panel lies behind. A multiplication 16 rows further on adds 2048 / 16.
__device__ __forceinline__ uint64_t panel_descriptor(uint32_t tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kNextPanel = uint64_t{8192 / 16} << 16;
  return kSwizzle128 | kEightRows | kNextPanel | ((tile & 0x3ffff) >> 4);
}

// Descriptor of blocks of 8 channels x 8 rows along gemm_k, 128 bytes each and not swizzled: the
// next 8 rows lie behind, the next 8 channels `stride` bytes further. 16 rows are 256 / 16.
__device__ __forceinline__ uint64_t block_descriptor(uint32_t block, uint32_t stride) {
  constexpr uint64_t kNextRows = uint64_t{128 / 16} << 16;
  return uint64_t{stride >> 4} << 32 | kNextRows | ((block & 0x3ffff) >> 4);
}

// wgmma with A in registers, B by descriptor, sums in f32, which `add` keeps (or they start anew).
// `SHAPE` is "k16.f32.f16.f16" or the like, `TAIL` the signs, and for 16-bit types no
// transposition.
#define DCN_SUMS8(i)                                                                         \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define DCN_SUMS32(i) DCN_SUMS8(i), DCN_SUMS8(i + 8), DCN_SUMS8(i + 16), DCN_SUMS8(i + 24)
#define DCN_REGISTERS_0_31                                                                        \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25" \
  ",%26,%27,%28,%29,%30,%31"
#define DCN_REGISTERS_32_47 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define DCN_REGISTERS_32_63                                                                      \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54," \
  "%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define DCN_REGISTERS_64_127                                                                     \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
  "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107," \
  "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,"   \
  "%126,%127"
#define DCN_A_AND_B "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(static_cast<int>(add))
#define DCN_WGMMA(NAME, SHAPE, TAIL)                                                             \
  struct NAME {                                                                                  \
    static __device__ __forceinline__ void mma(float (&sums)[32], uint32_t a0, uint32_t a1,      \
                                               uint32_t a2, uint32_t a3, uint64_t b, bool add) { \
      asm volatile(                                                                              \
          "{.reg .pred p; setp.ne.s32 p, %37, 0; "                                               \
          "wgmma.mma_async.sync.aligned.m64n64" SHAPE " {" DCN_REGISTERS_0_31                    \
          "}, {%32,%33,%34,%35}, %36, p, " TAIL ";}"                                             \
          : DCN_SUMS32(0)                                                                        \
          : DCN_A_AND_B);                                                                        \
    }                                                                                            \
    static __device__ __forceinline__ void mma(float (&sums)[48], uint32_t a0, uint32_t a1,      \
                                               uint32_t a2, uint32_t a3, uint64_t b, bool add) { \
      asm volatile(                                                                              \
          "{.reg .pred p; setp.ne.s32 p, %53, 0; "                                               \
          "wgmma.mma_async.sync.aligned.m64n96" SHAPE " {" DCN_REGISTERS_0_31                    \
          "," DCN_REGISTERS_32_47 "}, {%48,%49,%50,%51}, %52, p, " TAIL ";}"                     \
          : DCN_SUMS32(0), DCN_SUMS8(32), DCN_SUMS8(40)                                          \
          : DCN_A_AND_B);                                                                        \
    }                                                                                            \
    static __device__ __forceinline__ void mma(float (&sums)[64], uint32_t a0, uint32_t a1,      \
                                               uint32_t a2, uint32_t a3, uint64_t b, bool add) { \
      asm volatile(                                                                              \
          "{.reg .pred p; setp.ne.s32 p, %69, 0; "                                               \
          "wgmma.mma_async.sync.aligned.m64n128" SHAPE " {" DCN_REGISTERS_0_31                   \
          "," DCN_REGISTERS_32_63 "}, {%64,%65,%66,%67}, %68, p, " TAIL ";}"                     \
          : DCN_SUMS32(0), DCN_SUMS32(32)                                                        \
          : DCN_A_AND_B);                                                                        \
    }                                                                                            \
    static __device__ __forceinline__ void mma(float (&sums)[128], uint32_t a0, uint32_t a1,     \
                                               uint32_t a2, uint32_t a3, uint64_t b, bool add) { \
      asm volatile(                                                                              \
          "{.reg .pred p; setp.ne.s32 p, %133, 0; "                                              \
          "wgmma.mma_async.sync.aligned.m64n256" SHAPE " {" DCN_REGISTERS_0_31                   \
          "," DCN_REGISTERS_32_63 "," DCN_REGISTERS_64_127                                       \
          "}, {%128,%129,%130,%131}, %132, p, " TAIL ";}"                                        \
          : DCN_SUMS32(0), DCN_SUMS32(32), DCN_SUMS32(64), DCN_SUMS32(96)                        \
          : DCN_A_AND_B);                                                                        \
    }                                                                                            \
  };

DCN_WGMMA(WgmmaF16, "k16.f32.f16.f16", "1, 1, 0")
DCN_WGMMA(WgmmaBF16, "k16.f32.bf16.bf16", "1, 1, 0")
DCN_WGMMA(WgmmaTF32, "k8.f32.tf32.tf32", "1, 1")

#undef DCN_WGMMA

// wgmma of tiles: A and B by descriptor, both with gemm_k along their rows.
#define DCN_TILE_WGMMA(NAME, TYPES)                                                       \
  struct NAME {                                                                           \
    static __device__ __forceinline__ void mma(float (&sums)[32], uint64_t a, uint64_t b, \
                                               bool add) {                                \
      asm volatile(                                                                       \
          "{.reg .pred p; setp.ne.s32 p, %34, 0; "                                        \
          "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPES " {" DCN_REGISTERS_0_31     \
          "}, %32, %33, p, 1, 1, 0, 0;}"                                                  \
          : DCN_SUMS32(0)                                                                 \
          : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                  \
    }                                                                                     \
    static __device__ __forceinline__ void mma(float (&sums)[36], uint64_t a, uint64_t b, \
                                               bool add) {                                \
      asm volatile(                                                                       \
          "{.reg .pred p; setp.ne.s32 p, %38, 0; "                                        \
          "wgmma.mma_async.sync.aligned.m64n72k16.f32." TYPES " {" DCN_REGISTERS_0_31     \
          ",%32,%33,%34,%35}, %36, %37, p, 1, 1, 0, 0;}"                                  \
          : DCN_SUMS32(0), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]) \
          : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                  \
    }                                                                                     \
  };

DCN_TILE_WGMMA(TileWgmmaF16, "f16.f16")
DCN_TILE_WGMMA(TileWgmmaBF16, "bf16.bf16")

#undef DCN_TILE_WGMMA

// wgmma of panels: A and B by descriptor, both with rows along gemm_k; sums are added to.
#define DCN_PANEL_WGMMA(NAME, TYPES)                                                            \
  struct NAME {                                                                                 \
    static __device__ __forceinline__ void mma(float (&sums)[32], uint64_t a, uint64_t b) {     \
      asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPES " {" DCN_REGISTERS_0_31  \
                   "}, %32, %33, 1, 1, 1, 1, 1;"                                                \
                   : DCN_SUMS32(0)                                                              \
                   : "l"(a), "l"(b));                                                           \
    }                                                                                           \
    static __device__ __forceinline__ void mma(float (&sums)[64], uint64_t a, uint64_t b) {     \
      asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPES " {" DCN_REGISTERS_0_31 \
                   "," DCN_REGISTERS_32_63 "}, %64, %65, 1, 1, 1, 1, 1;"                        \
                   : DCN_SUMS32(0), DCN_SUMS32(32)                                              \
                   : "l"(a), "l"(b));                                                           \
    }                                                                                           \
    static __device__ __forceinline__ void mma(float (&sums)[128], uint64_t a, uint64_t b) {    \
      asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPES " {" DCN_REGISTERS_0_31 \
                   "," DCN_REGISTERS_32_63 "," DCN_REGISTERS_64_127                             \
                   "}, %128, %129, 1, 1, 1, 1, 1;"                                              \
                   : DCN_SUMS32(0), DCN_SUMS32(32), DCN_SUMS32(64), DCN_SUMS32(96)              \
                   : "l"(a), "l"(b));                                                           \
    }                                                                                           \
  };

DCN_PANEL_WGMMA(PanelWgmmaF16, "f16.f16")
DCN_PANEL_WGMMA(PanelWgmmaBF16, "bf16.bf16")

#undef DCN_PANEL_WGMMA

// wgmma of a panel with blocks: A and B by descriptor, both with rows along gemm_k; sums are added
// to.
#define DCN_BLOCK_WGMMA(NAME, TYPES)                                                             \
  struct NAME {                                                                                  \
    static __device__ __forceinline__ void mma(float (&sums)[20], uint64_t a, uint64_t b) {      \
      asm volatile("wgmma.mma_async.sync.aligned.m64n40k16.f32." TYPES                           \
                   " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19},"   \
                   " %20, %21, 1, 1, 1, 1, 1;"                                                   \
                   : DCN_SUMS8(0), DCN_SUMS8(8), "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), \
                     "+f"(sums[19])                                                              \
                   : "l"(a), "l"(b));                                                            \
    }                                                                                            \
  };

DCN_BLOCK_WGMMA(BlockWgmmaF16, "f16.f16")
DCN_BLOCK_WGMMA(BlockWgmmaBF16, "bf16.bf16")

#undef DCN_BLOCK_WGMMA

#undef DCN_A_AND_B
#undef DCN_REGISTERS_64_127
#undef DCN_REGISTERS_32_63
#undef DCN_REGISTERS_32_47
#undef DCN_REGISTERS_0_31
#undef DCN_SUMS32
#undef DCN_SUMS8

}  // namespace dcn::ptx

#endif  // DCN_EMULATION
