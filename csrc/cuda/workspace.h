// A call's workspace is one allocation; its parts begin where any kernel may read vectors.
#pragma once

#include <cstdint>

namespace dcn {

constexpr int64_t aligned_part(int64_t bytes) {
  constexpr int64_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace dcn
