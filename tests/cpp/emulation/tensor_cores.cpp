// Matrix multiplications by the layouts of fragments, of swizzled tiles and of panels that the PTX
// manual gives. Sums are cut off towards zero, as tensor cores do.
//
// A warp multiplies 16 rows, whether alone (mma.sync) or as a quarter of a warpgroup (wgmma): rows
// depend on its own registers and on shared memory. wgmma is carried out when it is committed or
// when its group is waited for, which is left to chance; until then its sums are NaN.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

#include "device.h"

namespace emulation {
namespace {

constexpr int kLanes = 32, kRows = 16, kMostColumns = 256, kMostDepth = 16;

enum class Form {
  kRegisters,
  kPanels,
  kTiles,
  kBlocks
};  // of A and B: a tile with registers, a
    // panel with blocks

struct Multiplication {
  int sums;  // which of Pending::sums
  Operand operand;
  Form form;
  const uint32_t* a_registers[4];
  uint32_t a, b;  // in shared memory
  bool add;
  uint32_t stride;  // of blocks
};
// Multiplications that are committed together.
struct Group {
  std::vector<Multiplication> multiplications;
  bool done = false;
};
// Sums that a thread adds to; `to` is null once it has waited for them.
struct Sums {
  float* to;
  int count;
  std::vector<float> values;
};
// What a thread has under way.
struct Pending {
  std::vector<Sums> sums;
  std::deque<Group> groups;
  Group open;
};
thread_local Pending pending[1024];

struct Operands {
  int columns, depth;
  float a[kRows][kMostDepth], b[kMostDepth][kMostColumns];
};
thread_local Operands operands;

float value_of(Operand operand, uint16_t bits) {
  if (operand == Operand::kF16) return __half2float(__ushort_as_half(bits));
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
float as_tf32(uint32_t bits) {
  bits &= ~0x1fffu;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
int depth_of(Operand operand) { return operand == Operand::kTf32 ? 8 : 16; }

// Register `i` of a fragment of A.
void set_a(Operand operand, int lane, int i, uint32_t bits) {
  const int row = lane / 4 + i % 2 * 8, k = lane % 4, late = i / 2;
  if (operand == Operand::kTf32) {
    operands.a[row][k + 4 * late] = as_tf32(bits);
    return;
  }
  operands.a[row][2 * k + 8 * late] = value_of(operand, static_cast<uint16_t>(bits));
  operands.a[row][2 * k + 8 * late + 1] = value_of(operand, static_cast<uint16_t>(bits >> 16));
}
// Register `i` of a fragment of B of mma.sync.
void set_b(Operand operand, int lane, int i, uint32_t bits) {
  const int column = lane / 4, k = lane % 4;
  if (operand == Operand::kTf32) {
    operands.b[k + 4 * i][column] = as_tf32(bits);
    return;
  }
  operands.b[2 * k + 8 * i][column] = value_of(operand, static_cast<uint16_t>(bits));
  operands.b[2 * k + 8 * i + 1][column] = value_of(operand, static_cast<uint16_t>(bits >> 16));
}

template <typename T>
T shared_value(uint32_t address) {
  // Vectors of 16 bytes change places by the row of 128 bytes that they are in.
  const uint32_t swizzled = address ^ (address >> 7 & 7) << 4;
  T value;
  std::memcpy(&value, shared_at(swizzled), sizeof value);
  return value;
}
float tile_value(Operand operand, uint32_t tile, int row, int k) {
  return operand == Operand::kTf32
             ? as_tf32(shared_value<uint32_t>(tile + row * 128 + k * 4))
             : value_of(operand, shared_value<uint16_t>(tile + row * 128 + k * 2));
}
void set_b_from_tile(Operand operand, uint32_t tile) {
  for (int column = 0; column < operands.columns; ++column) {
    for (int k = 0; k < operands.depth; ++k) {
      operands.b[k][column] = tile_value(operand, tile, column, k);
    }
  }
}
// A channel of a panel at row k.
float panel_value(Operand operand, uint32_t panel, int channel, int k) {
  return value_of(operand,
                  shared_value<uint16_t>(panel + channel / 64 * 8192 + k * 128 + channel % 64 * 2));
}

// A channel of blocks of 8 x 8 at row k.
float block_value(Operand operand, uint32_t blocks, uint32_t stride, int channel, int k) {
  uint16_t value;
  std::memcpy(&value, shared_at(blocks + channel / 8 * stride + k * 16 + channel % 8 * 2),
              sizeof value);
  return value_of(operand, value);
}

float cut_off(double sum) {
  const float rounded = static_cast<float>(sum);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(sum) ? std::nextafterf(rounded, 0.f)
                                                                  : rounded;
}

// sums_of(lane)[i] += A * B, or = A * B.
template <class SumsOf>
void multiply(SumsOf sums_of, bool add) {
  double row_sums[kMostColumns];
  for (int row = 0; row < kRows; ++row) {
    const auto sum_at = [&](int column) -> float& {
      return sums_of(row % 8 * 4 + column % 8 / 2)[column / 8 * 4 + row / 8 * 2 + column % 2];
    };
    for (int column = 0; column < operands.columns; ++column) {
      row_sums[column] = add ? sum_at(column) : 0.;
    }
    for (int k = 0; k < operands.depth; ++k) {
      const double a = operands.a[row][k];
      for (int column = 0; column < operands.columns; ++column) {
        row_sums[column] += a * operands.b[k][column];
      }
    }
    for (int column = 0; column < operands.columns; ++column) {
      sum_at(column) = cut_off(row_sums[column]);
    }
  }
}

// The operands of multiplication `i` of the warp's groups `group`.
void set_operands(const Pending* lanes, size_t group, size_t i) {
  const Multiplication& first = lanes[0].groups[group].multiplications[i];
  operands.columns = 2 * lanes[0].sums[first.sums].count;
  operands.depth = depth_of(first.operand);
  for (int lane = 0; lane < kLanes; ++lane) {
    const Multiplication& own = lanes[lane].groups[group].multiplications[i];
    if (own.a != first.a || own.b != first.b || own.add != first.add || own.sums != first.sums ||
        own.stride != first.stride) {
      fail("lanes multiply by different tiles");
    }
    for (int r = 0; r < 4 && own.form == Form::kRegisters; ++r) {
      set_a(own.operand, lane, r, *own.a_registers[r]);
    }
  }
  const int first_row = static_cast<int>(thread() / kLanes % 4) * kRows;
  for (int k = 0; k < operands.depth && first.form != Form::kRegisters; ++k) {
    for (int row = 0; row < kRows; ++row) {
      operands.a[row][k] = first.form == Form::kTiles
                               ? tile_value(first.operand, first.a, first_row + row, k)
                               : panel_value(first.operand, first.a, first_row + row, k);
    }
  }
  if (first.form == Form::kRegisters || first.form == Form::kTiles) {
    return set_b_from_tile(first.operand, first.b);
  }
  for (int k = 0; k < operands.depth; ++k) {
    for (int column = 0; column < operands.columns; ++column) {
      operands.b[k][column] = first.form == Form::kPanels
                                  ? panel_value(first.operand, first.b, column, k)
                                  : block_value(first.operand, first.b, first.stride, column, k);
    }
  }
}

// What all lanes of the warp of this thread have under way, but for the last `kept` groups.
void carry_out(size_t kept) {
  Pending* const lanes = pending + thread() / kLanes * kLanes;
  const size_t groups = lanes[0].groups.size();
  for (size_t group = 0; group + kept < groups; ++group) {
    const size_t count = lanes[0].groups[group].multiplications.size();
    for (int lane = 1; lane < kLanes; ++lane) {
      if (lanes[lane].groups.size() != groups ||
          lanes[lane].groups[group].multiplications.size() != count ||
          lanes[lane].sums.size() != lanes[0].sums.size()) {
        fail("lanes of a warp multiply different things");
      }
    }
    if (lanes[0].groups[group].done) continue;
    for (size_t i = 0; i < count; ++i) {
      set_operands(lanes, group, i);
      const Multiplication& first = lanes[0].groups[group].multiplications[i];
      multiply([&](int lane) { return lanes[lane].sums[first.sums].values.data(); }, first.add);
    }
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane].groups[group].done = true;
  }
}

bool under_way(const Pending& own, int sums) {
  for (const Group& group : own.groups) {
    for (const Multiplication& each : group.multiplications) {
      if (each.sums == sums) return true;
    }
  }
  return false;
}

void issue(Multiplication multiplication, float* sums, int count) {
  Pending& own = pending[thread()];
  int& i = multiplication.sums;
  while (i < static_cast<int>(own.sums.size()) && own.sums[i].to != sums) ++i;
  if (i == static_cast<int>(own.sums.size())) {
    own.sums.push_back({sums, count, {sums, sums + count}});
    std::fill(sums, sums + count, std::numeric_limits<float>::quiet_NaN());
  }
  own.open.multiplications.push_back(multiplication);
}

}  // namespace

void multiply_registers(Operand operand, float* sums, int count, const uint32_t* const (&a)[4],
                        uint32_t b, bool add) {
  issue({0, operand, Form::kRegisters, {a[0], a[1], a[2], a[3]}, 0, b, add, 0}, sums, count);
}
void multiply_panels(Operand operand, float* sums, int count, uint32_t a, uint32_t b) {
  issue({0, operand, Form::kPanels, {}, a, b, true, 0}, sums, count);
}
void multiply_blocks(Operand operand, float* sums, int count, uint32_t a, uint32_t b,
                     uint32_t stride) {
  issue({0, operand, Form::kBlocks, {}, a, b, true, stride}, sums, count);
}
void multiply_tiles(Operand operand, float* sums, int count, uint32_t a, uint32_t b, bool add) {
  issue({0, operand, Form::kTiles, {}, a, b, add, 0}, sums, count);
}
void commit_multiplications() {
  Pending& own = pending[thread()];
  own.groups.push_back(std::move(own.open));
  own.open = {};
  meet_warp(Meeting::kMultiply, 0, [] {
    if (random_below(2) == 0) carry_out(0);
  });
}
void finish_multiplications(size_t kept) {
  dawdle();
  meet_warp(Meeting::kMultiply, 0, [kept] { carry_out(kept); });
  Pending& own = pending[thread()];
  while (own.groups.size() > kept) own.groups.pop_front();
  for (size_t i = 0; i < own.sums.size(); ++i) {
    Sums& sums = own.sums[i];
    if (sums.to == nullptr || under_way(own, static_cast<int>(i))) continue;
    std::copy(sums.values.begin(), sums.values.end(), sums.to);
    sums.to = nullptr;
  }
  if (own.groups.empty()) own.sums.clear();
}

void multiply_warp(Operand operand, float* sums, const uint32_t* a, uint32_t b0, uint32_t b1) {
  struct Lane {
    float* sums;
    const uint32_t* a;
    uint32_t b[2];
  } const own{sums, a, {b0, b1}};
  thread_local const Lane* lanes[1024];
  lanes[thread()] = &own;
  const Lane** const warp = lanes + thread() / kLanes * kLanes;
  meet_warp(Meeting::kMultiply, 0, [&] {
    operands.columns = 8;
    operands.depth = depth_of(operand);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) set_a(operand, lane, i, warp[lane]->a[i]);
      for (int i = 0; i < 2; ++i) set_b(operand, lane, i, warp[lane]->b[i]);
    }
    multiply([&](int lane) { return warp[lane]->sums; }, true);
  });
}

}  // namespace emulation
