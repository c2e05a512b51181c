// A GPU that executes the project's kernels on one CPU core, so that they can be tested without
// one. Every thread of a CTA is a fiber; CTAs run one after the other, but for those of a cluster,
// which take turns.
//
// It is stricter than a GPU where a GPU forgives: warps lag behind at random, copies land late and
// leave NaN until then, shared memory starts as NaN, and what is read outside the allowed memory,
// misaligned, or waited for in vain ends the program. What it does not know is the memory model:
// a store is visible at once, and proxy fences do nothing.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <functional>

namespace dcn {
struct TensorMap;
}  // namespace dcn

namespace emulation {

struct Index {
  unsigned x, y, z;
};
extern thread_local Index thread_index, block_index;
extern Index block_size, grid_size;

[[noreturn]] void fail(const char* why);
// Of the next launches.
void seed(uint32_t number);
uint32_t random_below(uint32_t end);

// Runs `thread` for every thread of the grid; `cluster` CTAs along z make up a cluster.
void launch(dim3 grid, dim3 block, unsigned cluster, int64_t shared_bytes,
            const std::function<void()>& thread);

// Lets the other threads go on.
void yield();
// Once in a while, lets them go far ahead: called where a kernel may rely on what others do.
void dawdle();
// Lets them go on while *counter is `value`.
void wait_while(const uint64_t* counter, uint64_t value);
// Index in the CTA of the thread that runs.
unsigned thread();

// What a warp does together. Lanes that meet in different ones have diverged.
enum class Meeting { kSync, kVote, kShuffle, kReduce, kMultiply };
// The values of all lanes; `last` is called once, when all have come.
const uint64_t* meet_warp(Meeting meeting, uint64_t value, const std::function<void()>& last = {});
// Waits for `threads` threads of the CTA at barrier `id`.
void meet_block(int id, unsigned threads);

// Memory that kernels may read and write: nothing else exists to them.
void allow(const void* begin, int64_t bytes);
void allow_nothing();
void check_access(const void* pointer, size_t bytes);

// Shared memory by its address in the kernels: 16-byte aligned, and no better.
uint8_t* shared_at(uint32_t address);
uint32_t shared_address(const void* pointer);

// Clusters (cluster.cpp): the barrier that all their threads come to, and the shared memory of
// another CTA, which must not have ended.
void cluster_arrive();
void cluster_wait();
uint32_t cluster_address(uint32_t address, unsigned rank);
const uint8_t* cluster_at(uint32_t address);
// Into the shared memory of a CTA of the cluster, which has the barrier that counts the bytes.
void give(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier);
// For the scheduler: `run(rank)` for each CTA of a cluster, at the same time; a CTA offers the
// others their turn, and says whether it can go on itself.
void run_cluster(unsigned size, const std::function<void(unsigned rank)>& run);
void take_turns(bool can_go_on);

// Barriers in shared memory, and copies that are on their way to it (copies.cpp).
void barrier_init(uint32_t barrier, uint32_t arrivals);
void barrier_arrive(uint32_t barrier);
void barrier_expect(uint32_t barrier, uint32_t bytes);
void barrier_wait(uint32_t barrier, uint32_t parity);
bool barrier_passes(uint32_t barrier, uint32_t parity);
// Those of the CTA that runs.
struct Barriers;
Barriers* own_barriers();
void complete_bytes(Barriers* barriers, uint32_t barrier, uint32_t bytes);
void bulk_add(float* to, uint32_t from, uint32_t bytes);
void finish_bulk_adds();  // of this thread
void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier);
// Of a box that begins at these coordinates.
void tensor_copy(uint32_t to, const dcn::TensorMap& map, const int32_t* first, uint32_t barrier);
void copy_vector(uint32_t to, const void* from, bool copies);
void barrier_arrive_after_copies(uint32_t barrier);
void wait_for_copies();
// For the scheduler: a CTA begins; some copy lands; how many have not.
void forget_copies();
void land_a_copy();
size_t copies_on_their_way();

// Tensor cores (tensor_cores.cpp).
enum class Operand { kF16, kBF16, kTf32 };
// wgmma: A in registers, which are read when the multiplication is carried out, B swizzled.
void multiply_registers(Operand operand, float* sums, int count, const uint32_t* const (&a)[4],
                        uint32_t b, bool add);
// wgmma: A and B swizzled.
void multiply_tiles(Operand operand, float* sums, int count, uint32_t a, uint32_t b, bool add);
// wgmma: A and B in panels of 64 channels, rows along gemm_k.
// B of blocks of 8 channels, `stride` bytes apart.
void multiply_blocks(Operand operand, float* sums, int count, uint32_t a, uint32_t b,
                     uint32_t stride);
void multiply_panels(Operand operand, float* sums, int count, uint32_t a, uint32_t b);
void commit_multiplications();
void finish_multiplications(size_t kept);  // but for the last groups
// mma.sync, 16 rows x 8 channels.
void multiply_warp(Operand operand, float* sums, const uint32_t* a, uint32_t b0, uint32_t b1);

}  // namespace emulation

namespace dcn {
// What kernels call so; more than a CTA may have, to catch those that take more than they asked
// for.
extern thread_local uint8_t shared_memory[];
}  // namespace dcn
