// The vector kernels: chosen as PyTorch says, wide where the processor is, equal for every
// instruction set, and with objects that share nothing with the rest of the program.
#include <ATen/Version.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/capability.h"

namespace dcn::cpu {
namespace {

std::vector<const KernelTable*> tables_for_this_processor() {
  std::vector<const KernelTable*> tables{&kKernelsDEFAULT};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tables.push_back(&kKernelsAVX2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    tables.push_back(&kKernelsAVX512);
  }
#endif
  return tables;
}

TEST(Capability, IsTheOneThatPyTorchReports) {
  const std::string reported = at::get_cpu_capability();
  const std::string chosen = kernel_table().capability;
#if defined(__x86_64__)
  if (reported == "AVX512" || reported == "AVX2") {
    EXPECT_EQ(chosen, reported);
    return;
  }
#endif
  EXPECT_EQ(chosen, "DEFAULT");
}

TEST(Capability, VectorsAreWide) {
  EXPECT_EQ(kKernelsDEFAULT.vector_bytes, 16);
#if defined(__x86_64__)
  EXPECT_EQ(kKernelsAVX2.vector_bytes, 32);
  EXPECT_EQ(kKernelsAVX512.vector_bytes, 64);
#endif
}

// Every f16 bit pattern to f32 and back, by every instruction set, against the definition of the
// format.
TEST(Kernels, HalfConversionsAreExact) {
  std::vector<Half> all(1 << 16), back(1 << 16);
  for (uint32_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  for (const KernelTable* table : tables_for_this_processor()) {
    std::vector<float> wide(all.size());
    const int64_t size = static_cast<int64_t>(all.size());
    table->f16.widen({all.data(), size, wide.data(), size, 1, size});
    table->f16.narrow({wide.data(), size, back.data(), size, 1, size});
    for (uint32_t i = 0; i < all.size(); ++i) {
      const int exponent = (i >> 10) & 31, mantissa = i & 1023;
      if (exponent == 31 && mantissa) {
        EXPECT_TRUE(std::isnan(wide[i])) << i;
        EXPECT_GT(back[i].bits & 0x7fff, 0x7c00) << i;
        continue;
      }
      const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                              : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                              : std::ldexp(float(1024 + mantissa), exponent - 25);
      ASSERT_EQ(wide[i], i & 0x8000 ? -magnitude : magnitude) << table->capability << " " << i;
      ASSERT_EQ(back[i].bits, i) << table->capability;
    }
  }
}

// Rounding is the same for every instruction set, ties, overflow and subnormal results included.
TEST(Kernels, NarrowingRoundsAlike) {
  std::vector<float> values;
  std::mt19937 random(0);
  for (int i = 0; i < 200000; ++i) {
    const uint32_t bits = i % 3 ? random() : random() & 0xffffe000u;  // every third: ties of f16
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isnan(value)) values.push_back(value);
  }
  for (int e = -26; e < 17; ++e) values.push_back(std::ldexp(1.5f, e));
  const int64_t size = static_cast<int64_t>(values.size());
  std::vector<Half> half(size), half_expected(size);
  std::vector<BFloat16> bfloat(size);
  for (const KernelTable* table : tables_for_this_processor()) {
    table->f16.narrow({values.data(), size, half.data(), size, 1, size});
    table->bf16.narrow({values.data(), size, bfloat.data(), size, 1, size});
    if (table == &kKernelsDEFAULT) half_expected = half;
    for (int64_t i = 0; i < size; ++i) {
      ASSERT_EQ(half[i].bits, half_expected[i].bits) << table->capability << " " << values[i];
      uint32_t bits;
      std::memcpy(&bits, &values[i], sizeof bits);
      ASSERT_EQ(bfloat[i].bits, (bits + 0x7fff + ((bits >> 16) & 1)) >> 16) << values[i];
    }
  }
}

TEST(Kernels, TransposeEveryRemainder) {
  for (const KernelTable* table : tables_for_this_processor()) {
    for (int64_t rows = 1; rows < 36; ++rows) {
      for (int64_t cols : {1, 3, 8, 9, 16, 17, 31, 33}) {
        std::vector<float> src(rows * cols), dst(rows * cols + 1, -1.0f);
        for (size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i);
        table->f32.transpose({src.data(), cols, dst.data(), rows, rows, cols});
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(dst[c * rows + r], src[r * cols + c]);
        }
        ASSERT_EQ(dst.back(), -1.0f);
      }
    }
  }
}

}  // namespace
}  // namespace dcn::cpu
