#include "owgrad_plan.h"

namespace dcn {

std::string why_not_owgrad(const ConvShape& shape, FusedMath math) {
  const std::string why = why_not_wgrad(shape, math);
  if (!why.empty()) return why;
  if (element_bytes(math) != 2) {
    return std::string("owgrad has 16-bit arithmetic only, but the call has ") + name_of(math);
  }
  const FusedLayout layout = fused_layout(shape, 2);
  if (layout.padded() || layout.block_channels % kPieceChannels != 0) {
    return "owgrad needs a multiple of " + std::to_string(kPieceChannels) +
           " channels that share convolution and offset group, but the call has " +
           std::to_string(layout.segment);
  }
  return "";
}

}  // namespace dcn
