#include "plan_scope.h"

#include <mutex>
#include <utility>

namespace dcn {
namespace {

thread_local std::optional<ForcedPlan> t_forced;

std::mutex g_last_plan_mutex;
std::optional<Plan> g_last_plan;

}  // namespace

std::optional<ForcedPlan> forced_plan() { return t_forced; }

std::optional<ForcedPlan> exchange_forced_plan(std::optional<ForcedPlan> forced) {
  return std::exchange(t_forced, std::move(forced));
}

void record_last_plan(const Plan& plan) {
  std::lock_guard<std::mutex> lock(g_last_plan_mutex);
  g_last_plan = plan;
}

std::optional<Plan> last_plan() {
  std::lock_guard<std::mutex> lock(g_last_plan_mutex);
  return g_last_plan;
}

}  // namespace dcn
