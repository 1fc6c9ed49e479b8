// SPDX-License-Identifier: Apache-2.0
// In how many shares each step of a model is done.
#pragma once

#include <cstdint>
#include <vector>

#include "model.h"

namespace thinmaps {

// Shares of every step for so many threads. Steps that take little time have one, and so have
// those among them that would have to wake a thread for little more. Results do not depend on it.
std::vector<uint8_t> SharesOfSteps(const Model& model, int32_t threads);

}  // namespace thinmaps
