#include "budgets/budget.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/fail.h"

namespace pith {
namespace {

constexpr double kAdaptiveFloor = 0.2;  // AdaKV, arXiv 2407.11550, section 3.3

template <Sharing sharing>
std::unique_ptr<Budget> MakeShare(std::string_view name) {
  return std::make_unique<ShareBudget>(name, sharing, 0.0);
}

struct Method {
  std::string_view name;
  std::unique_ptr<Budget> (*make)(std::string_view name);
};

constexpr std::array kMethods = {
    Method{"uniform", MakeShare<Sharing::kNone>},
    Method{"layer", MakeShare<Sharing::kLayer>},
    Method{"global", MakeShare<Sharing::kAll>},
    Method{"adaptive",
           [](std::string_view name) -> std::unique_ptr<Budget> {
             return std::make_unique<ShareBudget>(name, Sharing::kLayer, kAdaptiveFloor);
           }},
    Method{"threshold",
           [](std::string_view /*name*/) -> std::unique_ptr<Budget> {
             return std::make_unique<ThresholdBudget>();
           }},
};

std::string_view Resolved(const Plan& plan, bool comparable) {
  if (plan.budget != "auto") return plan.budget;
  if (plan.keep.kind == Keep::Kind::kThreshold) return "threshold";
  return comparable ? "global" : "uniform";
}

}  // namespace

std::vector<std::string> BudgetNames() {
  std::vector<std::string> names = {"auto"};
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

std::unique_ptr<Budget> MakeBudget(const Plan& plan, bool comparable) {
  const std::string_view name = Resolved(plan, comparable);
  const auto method = std::find_if(kMethods.begin(), kMethods.end(),
                                   [&](const Method& m) { return m.name == name; });
  if (method == kMethods.end()) {
    Fail(ErrorCode::kInvalidArgument, "there is no budget \"{}\", expected one of {}", name,
         fmt::join(BudgetNames(), ", "));
  }
  return method->make(method->name);
}

}  // namespace pith
