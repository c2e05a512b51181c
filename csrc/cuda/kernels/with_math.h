// The one switch over kinds of arithmetic: from the plan's value to the type that kernels are
// compiled for.
#pragma once

#include "fused/fused_math.cuh"

namespace dcn {

// launch(Math) of that kind.
template <class Launch>
cudaError_t with_math(FusedMath kind, Launch launch) {
  switch (kind) {
    case FusedMath::kF16:
      return launch(MathF16{});
    case FusedMath::kBF16:
      return launch(MathBF16{});
    case FusedMath::kTf32:
      return launch(MathTf32{});
    case FusedMath::k3xTf32:
      return launch(Math3xTf32{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace dcn
