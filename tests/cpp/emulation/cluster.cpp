// Clusters: their CTAs are threads of the CPU, of which one runs at a time, so that each has its
// own of all that is thread_local: shared memory, fibers, barriers, copies.
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "device.h"

namespace emulation {
namespace {

constexpr unsigned kMostCtas = 8;
// A CTA's own addresses are below this; those of all CTAs of the cluster above.
constexpr uint32_t kWindow = 1u << 24;

struct Cta {
  bool ended = false;
  bool stuck = false;  // nothing has happened since it could not go on
  uint8_t* shared = nullptr;
  Barriers* barriers = nullptr;
};
std::mutex mutex;
std::condition_variable next;
std::vector<Cta> ctas;
unsigned whose_turn;
thread_local unsigned rank_of_this;

// Of all threads of the cluster.
uint64_t meetings;
unsigned arrived;
thread_local uint64_t meeting_of[1024];
thread_local bool has_arrived[1024];

bool pass_on() {
  std::vector<unsigned> able;
  for (unsigned i = 0; i < ctas.size(); ++i) {
    if (!ctas[i].ended && !ctas[i].stuck) able.push_back(i);
  }
  if (able.empty()) return false;
  whose_turn = able[random_below(static_cast<uint32_t>(able.size()))];
  next.notify_all();
  return true;
}
void wait_for_turn(std::unique_lock<std::mutex>& lock) {
  next.wait(lock, [] { return whose_turn == rank_of_this; });
}
void act() {
  for (Cta& cta : ctas) cta.stuck = false;
}

}  // namespace

void run_cluster(unsigned size, const std::function<void(unsigned)>& run) {
  if (size > kMostCtas) fail("too large a cluster");
  ctas.assign(size, Cta());
  meetings = arrived = 0;
  const auto run_cta = [&](unsigned rank) {
    rank_of_this = rank;
    for (bool& has : has_arrived) has = false;
    std::unique_lock<std::mutex> lock(mutex);
    ctas[rank].shared = dcn::shared_memory;
    ctas[rank].barriers = own_barriers();
    wait_for_turn(lock);
    lock.unlock();
    run(rank);
    lock.lock();
    act();
    ctas[rank].ended = true;
    pass_on();
  };
  whose_turn = 0;
  if (size == 1) return run_cta(0);
  std::vector<std::thread> threads;
  for (unsigned rank = 0; rank < size; ++rank) threads.emplace_back(run_cta, rank);
  for (std::thread& thread : threads) thread.join();
}

void take_turns(bool can_go_on) {
  std::unique_lock<std::mutex> lock(mutex);
  if (can_go_on) act();
  ctas[rank_of_this].stuck = !can_go_on;
  if (can_go_on && (ctas.size() == 1 || random_below(16) != 0)) return;
  if (!pass_on()) fail("deadlock");
  wait_for_turn(lock);
}

void cluster_arrive() {
  dawdle();
  if (has_arrived[thread()]) fail("a thread arrives twice at the cluster's barrier");
  has_arrived[thread()] = true;
  meeting_of[thread()] = meetings;
  if (++arrived == ctas.size() * block_size.x * block_size.y * block_size.z) {
    arrived = 0;
    ++meetings;
  }
}
void cluster_wait() {
  if (!has_arrived[thread()]) fail("a thread waits at the cluster's barrier before it arrives");
  wait_while(&meetings, meeting_of[thread()]);
  has_arrived[thread()] = false;
  dawdle();
}

uint32_t cluster_address(uint32_t address, unsigned rank) {
  if (rank >= ctas.size()) fail("no such CTA in the cluster");
  shared_at(address);
  return (rank + 1) * kWindow + address;
}

namespace {
// A place in the shared memory of a CTA: they lay it out alike.
uint8_t* cluster_place(uint32_t address) {
  const unsigned rank = address / kWindow - 1;
  if (rank >= ctas.size()) fail("no address of a cluster");
  if (ctas[rank].ended) fail("access to the shared memory of a CTA that has ended");
  if (ctas[rank].shared == nullptr) fail("access to the shared memory of a CTA to come");
  return ctas[rank].shared + (shared_at(address % kWindow) - dcn::shared_memory);
}
}  // namespace

const uint8_t* cluster_at(uint32_t address) { return cluster_place(address); }
void give(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (barrier / kWindow != to / kWindow) fail("the barrier of another CTA");
  cluster_place(to + bytes - 1);
  std::memcpy(cluster_place(to), from, bytes);
  complete_bytes(ctas[to / kWindow - 1].barriers, barrier % kWindow, bytes);
  dawdle();
}

}  // namespace emulation
