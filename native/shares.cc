// SPDX-License-Identifier: Apache-2.0
#include "shares.h"

#include <algorithm>

#include "team.h"

namespace thinmaps {
namespace {

constexpr int64_t kShareNanoseconds = 3'000;    // handing a share over takes 0.2 to 0.5
constexpr int64_t kAwakeNanoseconds = 50'000;   // a thread without a share falls asleep after it
constexpr int64_t kWakingNanoseconds = 60'000;  // waking it takes 5 to 50, and it should pay

int32_t SharesOf(const Model& model, const StepDescription& step, int32_t threads) {
  const int64_t worth = step.nanoseconds / kShareNanoseconds;
  const int32_t parts = model.kernel(step.node).most_parts({step.first, step.rows});
  const int32_t most = std::min({threads, parts, Team::kMostShares});
  return static_cast<int32_t>(std::clamp<int64_t>(worth, 1, most));
}

}  // namespace

std::vector<uint8_t> SharesOfSteps(const Model& model, int32_t threads) {
  const auto& steps = model.steps();
  std::vector<uint8_t> shares(steps.size(), 1);
  if (threads == 1) return shares;
  size_t first = 0;  // of a stretch in which nobody falls asleep
  int64_t shared = 0;
  int64_t alone = 0;
  const auto end_stretch = [&](size_t stop) {
    if (shared < kWakingNanoseconds) std::fill(&shares[first], &shares[first] + (stop - first), 1);
    first = stop;
    shared = 0;
  };
  for (size_t i = 0; i < steps.size(); ++i) {
    shares[i] = static_cast<uint8_t>(SharesOf(model, steps[i], threads));
    alone = shares[i] == 1 ? alone + steps[i].nanoseconds : 0;
    shared += shares[i] == 1 ? 0 : steps[i].nanoseconds;
    if (alone > kAwakeNanoseconds) end_stretch(i + 1);
  }
  end_stretch(steps.size());
  return shares;
}

}  // namespace thinmaps
