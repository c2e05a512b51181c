// Division by a number that is known before a kernel starts: a multiplication and a shift.
#pragma once

#include <cstdint>

#include "shape.h"

namespace dcn {

// Exact for dividends below 2^31.
struct Divisor {
  uint32_t value = 1;
  uint32_t multiplier = uint32_t{1} << 31;
  uint32_t shift = 31;

  Divisor() = default;
  DCN_HOST_DEVICE explicit Divisor(uint32_t divisor) : value(divisor) {
    uint32_t bits = 0;
    while ((uint64_t{1} << bits) < divisor) ++bits;
    shift = 31 + bits;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor);
  }

  DCN_HOST_DEVICE uint32_t quotient(uint32_t dividend) const {
    return static_cast<uint32_t>((uint64_t{dividend} * multiplier) >> shift);
  }
};

}  // namespace dcn
