// SPDX-License-Identifier: Apache-2.0
// What the machine could do at most, measured: the limits that a profile stands beside.
#pragma once

#include "isa.h"

namespace thinmaps {

// Products of integers that one core does in a second with the instruction that `isa`'s
// convolutions multiply with, operands in registers. `isa` must run here. Takes some milliseconds,
// as both probes do; the fastest of several turns counts.
double ProductsPerSecond(Isa isa);

// Bytes that one core reads and writes in a second (both count) when it copies a block that fits
// its second-level cache, and not its first.
double CopiedBytesPerSecond();

}  // namespace thinmaps
