// SPDX-License-Identifier: Apache-2.0
// Where the time of a run goes, step by step. `Engine::Run` knows nothing of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine.h"

namespace thinmaps {

// Runs all steps once, each for itself, and returns the nanoseconds on the clock that each took,
// less what running no step takes. With several threads a step lasts until all have done their
// part. One run at a time, as `Engine::Run`, which says what `externals` are.
std::vector<int64_t> Profile(Engine& engine, std::span<const External> externals);

}  // namespace thinmaps
