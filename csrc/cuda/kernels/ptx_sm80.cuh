// The instructions of compute capability 8.0 and newer that CUDA C++ has no name for: barriers in
// shared memory, asynchronous copies, and a warp's matrix multiplication.
#pragma once

#include <cstdint>

#if defined(DCN_EMULATION)  // a CPU executes the kernels (tests/cpp/emulation)
#include "emulated_ptx.h"
#else

namespace dcn::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile(
      "{\n"
      ".reg .b64 state;\n"
      "mbarrier.arrive.shared.b64 state, [%0];\n"
      "}" ::"r"(barrier)
      : "memory");
}
// Compute capability 9.0 has a wait that suspends the warp (ptx_sm90.cuh); this one asks again.
__device__ __forceinline__ void barrier_poll(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

// 16 bytes from global to shared memory, past the L1 and past registers.
__device__ __forceinline__ void copy_vector(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// The same, or zeros, for which nothing is read.
__device__ __forceinline__ void copy_vector_or_zeros(uint32_t to, const void* from, bool copies) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(copies ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
// This thread arrives at the barrier once its copies so far are there.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// 16 bytes, in the order of the program: the compiler would rather load where they are used.
__device__ __forceinline__ uint4 load_shared(uint32_t from) {
  uint4 vector;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(vector.x), "=r"(vector.y), "=r"(vector.z), "=r"(vector.w)
               : "r"(from));
  return vector;
}
// The same from global or shared memory, as the address says.
__device__ __forceinline__ uint4 load_vector(const void* from) {
  uint4 vector;
  asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(vector.x), "=r"(vector.y), "=r"(vector.z), "=r"(vector.w)
               : "l"(from));
  return vector;
}
__device__ __forceinline__ void store_vector(uint32_t to, const uint32_t (&v)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}
// A lane has the address of a row of 16 bytes, eight of them each of four matrices of 16-bit
// numbers; it gets two rows' numbers of a column of each.
__device__ __forceinline__ void load_transposed(uint32_t from, uint32_t (&v)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void store_word(uint32_t to, uint32_t v) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}
__device__ __forceinline__ void store_zero(uint32_t to) {
  asm volatile("st.shared.b32 [%0], 0;" ::"r"(to) : "memory");
}
// Waits for the `threads` threads that come to barrier `id` (1 to 15) of this CTA.
__device__ __forceinline__ void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ uint2 load_pair(uint32_t from) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(from) : "memory");
  return v;
}
// One word, two or four.
__device__ __forceinline__ void store_words(uint32_t to, const uint32_t (&v)[1]) {
  store_word(to, v[0]);
}
__device__ __forceinline__ void store_words(uint32_t to, const uint32_t (&v)[2]) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(v[0]), "r"(v[1]) : "memory");
}
__device__ __forceinline__ void store_words(uint32_t to, const uint32_t (&v)[4]) {
  store_vector(to, v);
}

// Towards the L2, where a load soon finds it.
__device__ __forceinline__ void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
}

// A loaded number: what is made of it is not computed before this.
__device__ __forceinline__ void take(uint32_t& loaded) { asm volatile("" : "+r"(loaded)); }

// A number that the compiler must keep in a register: one that is found again from the thread's
// index costs each step its latency.
__device__ __forceinline__ int kept(int value) {
  asm volatile("shfl.sync.idx.b32 %0, %0, %1, 31, 0xffffffff;"
               : "+r"(value)
               : "r"(threadIdx.x & 31));
  return value;
}
// A number that the compiler must not keep: what follows from it is computed here, in a branch that
// few steps take.
__device__ __forceinline__ int unkept(int value) {
  int here;
  asm volatile("mov.b32 %0, %1;" : "=r"(here) : "r"(value));
  return here;
}

// A number that is found by now: the compiler does not put it off, and what it found from the
// number before, it finds again from this one rather than keeping it.
__device__ __forceinline__ uint32_t settled(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ __forceinline__ float settled(float value) {
  asm volatile("" : "+f"(value));
  return value;
}

// Add to a word of shared memory where `exists`, without a branch; the second one returns what was
// there, and 0 where nothing is added.
__device__ __forceinline__ void shared_add_if(bool exists, uint32_t to, uint32_t value) {
  asm volatile(
      "{\n"
      ".reg .pred exists;\n"
      "setp.ne.s32 exists, %2, 0;\n"
      "@exists red.shared.add.u32 [%0], %1;\n"
      "}" ::"r"(to),
      "r"(value), "r"(static_cast<int>(exists))
      : "memory");
}
__device__ __forceinline__ uint32_t shared_fetch_add_if(bool exists, uint32_t to, uint32_t value) {
  uint32_t before = 0;
  asm volatile(
      "{\n"
      ".reg .pred exists;\n"
      "setp.ne.s32 exists, %3, 0;\n"
      "@exists atom.shared.add.u32 %0, [%1], %2;\n"
      "}"
      : "+r"(before)
      : "r"(to), "r"(value), "r"(static_cast<int>(exists))
      : "memory");
  return before;
}

// One instruction, where the compiler would multiply 64 bits by 64.
__device__ __forceinline__ const uint8_t* step_ahead(const uint8_t* from, int32_t steps,
                                                     int32_t bytes) {
  const uint8_t* there;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(there) : "r"(steps), "r"(bytes), "l"(from));
  return there;
}

// mma.sync, 16 rows x 8 channels, sums in f32. `a` is four registers of a fragment.
#define DCN_MMA(NAME, SHAPE)                                                                 \
  struct NAME {                                                                              \
    static __device__ __forceinline__ void mma(float* sums, const uint32_t* a, uint32_t b0,  \
                                               uint32_t b1) {                                \
      asm("mma.sync.aligned." SHAPE " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                       \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                   \
    }                                                                                        \
  };

DCN_MMA(MmaF16, "m16n8k16.row.col.f32.f16.f16.f32")
DCN_MMA(MmaBF16, "m16n8k16.row.col.f32.bf16.bf16.f32")
DCN_MMA(MmaTF32, "m16n8k8.row.col.f32.tf32.tf32.f32")

#undef DCN_MMA

}  // namespace dcn::ptx

#endif  // DCN_EMULATION
