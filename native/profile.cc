// SPDX-License-Identifier: Apache-2.0
#include "profile.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace thinmaps {
namespace {

using Clock = std::chrono::steady_clock;

int64_t Nanoseconds(Engine& engine, std::span<const External> externals, int32_t first,
                    int32_t stop) {
  const Clock::time_point start = Clock::now();
  engine.Run(externals, first, stop);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

}  // namespace

std::vector<int64_t> Profile(Engine& engine, std::span<const External> externals) {
  constexpr int kEmptyRuns = 100;
  int64_t empty = std::numeric_limits<int64_t>::max();
  for (int run = 0; run < kEmptyRuns; ++run) {
    empty = std::min(empty, Nanoseconds(engine, externals, 0, 0));
  }
  std::vector<int64_t> taken;
  taken.reserve(engine.model().steps().size());
  for (int32_t step = 0; static_cast<size_t>(step) < engine.model().steps().size(); ++step) {
    const int64_t lasted = Nanoseconds(engine, externals, step, step + 1);
    taken.push_back(std::max<int64_t>(lasted - empty, 0));
  }
  return taken;
}

}  // namespace thinmaps
