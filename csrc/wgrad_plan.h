// The weight gradient's part of the plan: which tile, how many CTAs share its steps, and what they
// leave in memory.
#pragma once

#include <cstdint>
#include <string>

#include "fused_layout.h"
#include "fused_plan.h"
#include "wgrad_tiles.h"

namespace dcn {

struct WgradPlan {
  int tile = -1;  // of kWgradTiles
  int ctas = 0;
  // The first ones have more steps, where another kernel's CTAs run when the others have ended.
  int early_ctas = 0;  // 0: all have the same
  int64_t early_steps = 0;
  int64_t partial_bytes = 0;  // f32 sums of the CTAs' segments
  int64_t time_ns = 0;        // the estimate
};

// The given tile and number of CTAs (-1, 0: free), or the quickest by the estimate. `step_time`:
// step_ns, or owgrad_step_ns.
WgradPlan plan_wgrad(const ConvShape& shape, FusedMath math, int multiprocessors, int tile = -1,
                     int ctas = 0, int (*step_time)(const WgradTile&, FusedMath) = step_ns);

// Empty, or why the weight gradient of this shape is not for fused.
std::string why_not_wgrad(const ConvShape& shape, FusedMath math);

}  // namespace dcn
