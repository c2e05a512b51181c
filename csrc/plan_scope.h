// What is in force on this thread, and what ran last: the state around the plan, which itself has
// none.
#pragma once

#include <optional>

#include "plan.h"

namespace dcn {

// The plan forced on this thread, if any.
std::optional<ForcedPlan> forced_plan();

// Forces (or with nullopt frees) the plan on this thread; returns what was in force before.
std::optional<ForcedPlan> exchange_forced_plan(std::optional<ForcedPlan> forced);

// Forces a plan for a scope: how a backward pass runs with what its forward pass was forced to.
class ForcedPlanScope {
 public:
  explicit ForcedPlanScope(std::optional<ForcedPlan> forced)
      : previous_(exchange_forced_plan(std::move(forced))) {}
  ~ForcedPlanScope() { exchange_forced_plan(std::move(previous_)); }
  ForcedPlanScope(const ForcedPlanScope&) = delete;
  ForcedPlanScope& operator=(const ForcedPlanScope&) = delete;

 private:
  std::optional<ForcedPlan> previous_;
};

// The plan of the latest call in this process, of any thread (backward runs on threads of the
// autograd engine).
void record_last_plan(const Plan& plan);
std::optional<Plan> last_plan();

}  // namespace dcn
