// Fibers, and the order in which they run.
#include "device.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace dcn {
constexpr int64_t kSharedBytes = 240 * 1024;
alignas(1024) thread_local uint8_t shared_memory[kSharedBytes];
}  // namespace dcn

namespace emulation {
namespace {

constexpr int kLanes = 32;
constexpr uint8_t kNothing = 0xff;  // NaN in every type
constexpr int64_t kStackBytes = 128 * 1024;

struct Fiber {
  jmp_buf at;
  std::unique_ptr<char[]> stack;
  bool started, ended;
  const uint64_t* counter;  // waits while this is `value`; null: it waits for nothing
  uint64_t value;
  bool waits() const { return counter != nullptr && *counter == value; }
};

struct Warp {
  uint64_t meetings = 0;
  unsigned arrived = 0;
  Meeting meeting = Meeting::kSync;
  uint64_t values[2][kLanes];  // of this meeting and of the one before, which lanes still read
  unsigned lag = 0;            // rounds
};

struct BlockBarrier {
  uint64_t meetings = 0;
  unsigned arrived = 0;
};

std::mt19937 random_numbers(1);
thread_local std::vector<Fiber> fibers;
thread_local std::vector<Warp> warps;
thread_local BlockBarrier block_barriers[16];
thread_local unsigned running;
thread_local jmp_buf scheduler;
const std::function<void()>* body;
std::vector<std::pair<const uint8_t*, const uint8_t*>> allowed;
thread_local uint32_t shared_begin;  // address of shared_memory[0]

void enter() {
  (*body)();
  fibers[running].ended = true;
  _longjmp(scheduler, 1);
}

// swapcontext would call the kernel of the operating system each time, so contexts serve to get
// onto a new stack only.
void resume(unsigned i) {
  Fiber& fiber = fibers[i];
  running = i;
  const Index& size = block_size;
  thread_index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

void leave() {
  if (_setjmp(fibers[running].at) == 0) _longjmp(scheduler, 1);
}

// One turn of a warp: its lanes go on until each waits. True where one did.
bool run_warp(unsigned warp, unsigned threads, unsigned& left) {
  bool ran = false;
  for (unsigned i = warp * kLanes; i < std::min(threads, (warp + 1) * kLanes); ++i) {
    if (fibers[i].ended || fibers[i].waits()) continue;
    resume(i);
    ran = true;
    left -= fibers[i].ended;
  }
  return ran;
}

void start_block(unsigned threads, int64_t shared_bytes, uint32_t first_address) {
  if (shared_bytes > dcn::kSharedBytes) fail("too much shared memory asked for");
  std::memset(dcn::shared_memory, kNothing, dcn::kSharedBytes);
  shared_begin = first_address;
  forget_copies();
  warps.assign((threads + kLanes - 1) / kLanes, Warp());
  for (BlockBarrier& barrier : block_barriers) barrier = {};
  if (fibers.size() < threads) fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.started = fiber.ended = false;
    fiber.counter = nullptr;
  }
}

void run_block(unsigned threads, int64_t shared_bytes, uint32_t first_address) {
  start_block(threads, shared_bytes, first_address);
  std::vector<unsigned> order(warps.size());
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  unsigned left = threads;
  while (left > 0) {
    bool ran = false;
    std::shuffle(order.begin(), order.end(), random_numbers);
    for (unsigned warp : order) {
      if (warps[warp].lag > 0) {
        --warps[warp].lag;
        ran = true;  // it will
        continue;
      }
      ran |= run_warp(warp, threads, left);
      if (random_below(16) == 0) warps[warp].lag = random_below(random_below(16) == 0 ? 400 : 8);
    }
    while (copies_on_their_way() > 0 && (!ran || random_below(4) == 0)) {
      land_a_copy();
      ran = true;
    }
    take_turns(ran);
  }
  if (copies_on_their_way() > 0) fail("a CTA ended before its copies");
  for (int64_t i = shared_bytes; i < dcn::kSharedBytes; ++i) {
    if (dcn::shared_memory[i] != kNothing) fail("write beyond the shared memory");
  }
}

}  // namespace

thread_local Index thread_index, block_index;
Index block_size, grid_size;

void fail(const char* why) {
  std::fprintf(stderr, "%s (CTA %u, %u, %u, thread %u)\n", why, block_index.x, block_index.y,
               block_index.z, running);
  std::abort();
}

void seed(uint32_t number) { random_numbers.seed(number); }
uint32_t random_below(uint32_t end) { return random_numbers() % end; }

void launch(dim3 grid, dim3 block, unsigned cluster, int64_t shared_bytes,
            const std::function<void()>& thread) {
  body = &thread;
  grid_size = {grid.x, grid.y, grid.z};
  block_size = {block.x, block.y, block.z};
  const unsigned threads = block.x * block.y * block.z;
  if (threads % kLanes != 0) fail("a CTA of incomplete warps");
  if (grid.z % cluster != 0) fail("a grid of incomplete clusters");
  for (unsigned z = 0; z < grid.z; z += cluster) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        const uint32_t first_address = 64 + 16 * random_below(64);  // behind what is static
        run_cluster(cluster, [&](unsigned rank) {
          block_index = {x, y, z + rank};
          run_block(threads, shared_bytes, first_address);
        });
      }
    }
  }
}

void yield() {
  fibers[running].counter = nullptr;
  leave();
}
void dawdle() {
  if (random_below(64) != 0) return;
  warps[running / kLanes].lag = random_below(random_below(4) == 0 ? 400 : 8);
  yield();
}
void wait_while(const uint64_t* counter, uint64_t value) {
  Fiber& fiber = fibers[running];
  fiber.counter = counter;
  fiber.value = value;
  while (fiber.waits()) leave();
}
unsigned thread() { return running; }

const uint64_t* meet_warp(Meeting meeting, uint64_t value, const std::function<void()>& last) {
  Warp& warp = warps[running / kLanes];
  uint64_t* const values = warp.values[warp.meetings % 2];
  values[running % kLanes] = value;
  if (warp.arrived > 0 && warp.meeting != meeting) fail("lanes of a warp have diverged");
  warp.meeting = meeting;
  if (++warp.arrived == kLanes) {
    if (last) last();
    warp.arrived = 0;
    ++warp.meetings;
  } else {
    wait_while(&warp.meetings, warp.meetings);
  }
  return values;
}

void meet_block(int id, unsigned threads) {
  dawdle();
  BlockBarrier& barrier = block_barriers[id];
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.meetings;
  } else {
    wait_while(&barrier.meetings, barrier.meetings);
  }
  dawdle();
}

void allow(const void* begin, int64_t bytes) {
  const auto* from = static_cast<const uint8_t*>(begin);
  allowed.emplace_back(from, from + bytes);
}
void allow_nothing() { allowed.clear(); }
void check_access(const void* pointer, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(pointer);
  if (bytes <= 16 && reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("misaligned access");
  if (at >= dcn::shared_memory && at + bytes <= dcn::shared_memory + dcn::kSharedBytes) return;
  for (const auto& [begin, end] : allowed) {
    if (at >= begin && at + bytes <= end) return;
  }
  fail("access outside the allowed memory");
}

uint8_t* shared_at(uint32_t address) {
  if (address < shared_begin || address >= shared_begin + dcn::kSharedBytes) {
    fail("address outside the shared memory");
  }
  return dcn::shared_memory + (address - shared_begin);
}
uint32_t shared_address(const void* pointer) {
  const auto* at = static_cast<const uint8_t*>(pointer);
  if (at < dcn::shared_memory || at >= dcn::shared_memory + dcn::kSharedBytes) {
    fail("no address of shared memory");
  }
  return shared_begin + static_cast<uint32_t>(at - dcn::shared_memory);
}

}  // namespace emulation
