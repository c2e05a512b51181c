// The instructions of compute capability 9.0 by which the CTAs of a cluster meet, and reach one
// another's shared memory.
#pragma once

#include "ptx_sm90.cuh"

#if !defined(DCN_EMULATION)

namespace dcn::ptx {

// The barrier that all threads of the cluster come to. Behind the wait they see what the others had
// written before they arrived.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// To say that something is read no more: nothing that was written need be seen.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Where this CTA has something, the same place in the shared memory of a CTA of its cluster.
__device__ __forceinline__ uint32_t cluster_address(uint32_t address, int32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ float4 load_of_cluster(uint32_t from) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
// Puts sums into the shared memory of a CTA of the cluster, whose barrier expects their bytes.
__device__ __forceinline__ void give(uint32_t to, float4 sums, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
      "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "f"(sums.x), "f"(sums.y), "f"(sums.z), "f"(sums.w), "r"(barrier)
      : "memory");
}
// barrier_wait for what CTAs of the cluster give.
__device__ __forceinline__ void wait_for_cluster(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

}  // namespace dcn::ptx

#endif  // DCN_EMULATION
