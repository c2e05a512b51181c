// Barriers in shared memory, and copies, which land at a time of their own.
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "device.h"
#include "emulated_tensor_map.h"

namespace emulation {

struct Barrier {
  uint64_t phases = 0;  // that have completed
  uint32_t arrivals = 0, missing = 0;
  int64_t bytes = 0;  // that are still to come
};
struct Barriers {
  std::map<uint32_t, Barrier> at;
};

namespace {

struct Copy {
  uint32_t to;
  const void* from;  // null: zeros
  uint32_t bytes;
};
// Copies that land together, and what they complete.
struct Delivery {
  std::vector<Copy> copies;
  uint32_t barrier;
  bool bulk;
  unsigned thread;
};

thread_local Barriers barriers;
thread_local std::map<unsigned, std::vector<Copy>> of_thread;  // that no barrier waits for yet
thread_local std::vector<Delivery> deliveries;

// Of the copy engine, which reads shared memory as late as it may.
struct Add {
  float* to;
  uint32_t from, bytes;
  unsigned thread;
};
thread_local std::vector<Add> adds;

Barrier& at(uint32_t barrier) {
  const auto found = barriers.at.find(barrier);
  if (found == barriers.at.end()) fail("no barrier there");
  return found->second;
}

void complete(Barrier& barrier) {
  if (barrier.missing > 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.arrivals;
  ++barrier.phases;
}
void arrive(Barrier& barrier) {
  if (barrier.missing == 0) fail("more arrivals than the barrier counts");
  --barrier.missing;
  complete(barrier);
}

void ask(const Copy& copy) {
  if (copy.to % 16 != 0 || copy.bytes % 16 != 0 ||
      reinterpret_cast<uintptr_t>(copy.from) % 16 != 0) {
    fail("misaligned copy");
  }
  if (copy.from != nullptr) check_access(copy.from, copy.bytes);
  shared_at(copy.to + copy.bytes - 1);
  std::memset(shared_at(copy.to), 0xff, copy.bytes);  // whoever still reads it shall notice
}
void land(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.from != nullptr) {
      std::memcpy(shared_at(copy.to), copy.from, copy.bytes);
    } else {
      std::memset(shared_at(copy.to), 0, copy.bytes);
    }
  }
}

}  // namespace

void barrier_init(uint32_t barrier, uint32_t arrivals) {
  if (barrier % 8 != 0) fail("misaligned barrier");
  shared_at(barrier);
  barriers.at[barrier] = {0, arrivals, arrivals, 0};
}
void barrier_arrive(uint32_t barrier) {
  arrive(at(barrier));
  dawdle();
}
void barrier_expect(uint32_t barrier, uint32_t bytes) {
  at(barrier).bytes += bytes;
  arrive(at(barrier));
}
bool barrier_passes(uint32_t barrier, uint32_t parity) {
  return at(barrier).phases % 2 != (parity & 1);
}
void barrier_wait(uint32_t barrier, uint32_t parity) {
  const Barrier& waited = at(barrier);
  while (!barrier_passes(barrier, parity)) wait_while(&waited.phases, waited.phases);
  dawdle();
}

Barriers* own_barriers() { return &barriers; }
void complete_bytes(Barriers* of, uint32_t barrier, uint32_t bytes) {
  const auto found = of->at.find(barrier);
  if (found == of->at.end()) fail("no barrier there");
  found->second.bytes -= bytes;
  complete(found->second);
}

void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  const Copy copy{to, from, bytes};
  ask(copy);
  at(barrier);
  deliveries.push_back({{copy}, barrier, true, thread()});
}
void tensor_copy(uint32_t to, const dcn::TensorMap& map, const int32_t* first, uint32_t barrier) {
  if (to % 1024 != 0) fail("misaligned box");
  constexpr int kRowBytes = 128, kVector = 8;  // numbers of 16 bytes
  Delivery delivery{{}, barrier, true, thread()};
  for (int32_t row = 0; row < map.box[1] * map.box[2] * map.box[3]; ++row) {
    const int32_t inside[] = {0, row % map.box[1], row / map.box[1] % map.box[2],
                              row / map.box[1] / map.box[2]};
    bool exists = true;
    int64_t begin = 0;  // of the row
    for (int i = map.rank - 1; i > 0; --i) {
      const int64_t at = int64_t{first[i]} + inside[i];
      exists = exists && at >= 0 && at < map.sizes[i];
      begin = begin * map.sizes[i] + at;
    }
    for (int vector = 0; vector < kRowBytes / 16; ++vector) {
      const int64_t at = first[0] + vector * kVector;
      const bool has = exists && at >= 0 && at < map.sizes[0];
      const uint32_t place = static_cast<uint32_t>(row * kRowBytes + (vector ^ row % 8) * 16);
      delivery.copies.push_back(
          {to + place, has ? map.data + 2 * (begin * map.sizes[0] + at) : nullptr, 16});
      ask(delivery.copies.back());
    }
  }
  at(barrier);
  deliveries.push_back(std::move(delivery));
}
void copy_vector(uint32_t to, const void* from, bool copies) {
  const Copy copy{to, copies ? from : nullptr, 16};
  ask(copy);
  of_thread[thread()].push_back(copy);
}
void barrier_arrive_after_copies(uint32_t barrier) {
  at(barrier);
  deliveries.push_back({std::move(of_thread[thread()]), barrier, false, thread()});
  of_thread[thread()].clear();
}
void wait_for_copies() {
  land(of_thread[thread()]);
  of_thread[thread()].clear();
  const auto on_their_way = [] {
    for (const Delivery& delivery : deliveries) {
      if (!delivery.bulk && delivery.thread == thread()) return true;
    }
    return false;
  };
  while (on_their_way()) yield();
}

void bulk_add(float* to, uint32_t from, uint32_t bytes) {
  if (from % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0) {
    fail("misaligned addition");
  }
  check_access(to, bytes);
  shared_at(from + bytes - 1);
  adds.push_back({to, from, bytes, thread()});
}
void finish_bulk_adds() {
  std::vector<Add> others;
  for (const Add& add : adds) {
    if (add.thread != thread()) {
      others.push_back(add);
      continue;
    }
    for (uint32_t i = 0; i < add.bytes / sizeof(float); ++i) {
      float sum;
      std::memcpy(&sum, shared_at(add.from + i * sizeof(float)), sizeof sum);
      add.to[i] += sum;
    }
  }
  adds = std::move(others);
}

void forget_copies() {
  if (!adds.empty()) fail("nobody waits for additions");
  barriers.at.clear();
  of_thread.clear();
  deliveries.clear();
}
void land_a_copy() {
  const size_t which = random_below(static_cast<uint32_t>(deliveries.size()));
  const Delivery delivery = std::move(deliveries[which]);
  deliveries.erase(deliveries.begin() + static_cast<std::ptrdiff_t>(which));
  land(delivery.copies);
  Barrier& barrier = at(delivery.barrier);
  if (delivery.bulk) {
    for (const Copy& copy : delivery.copies) barrier.bytes -= copy.bytes;
    complete(barrier);
  } else {
    arrive(barrier);
  }
}
size_t copies_on_their_way() { return deliveries.size(); }

}  // namespace emulation
