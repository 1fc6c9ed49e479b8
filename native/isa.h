// SPDX-License-Identifier: Apache-2.0
// Instruction sets that kernels are written for. They change speed, never results.
#pragma once

#include <cstdint>

namespace thinmaps {

// In rising order: whoever runs one runs those before it.
enum class Isa : int32_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

const char* NameOf(Isa isa);

// Whether this processor and its operating system run `isa`.
bool Runs(Isa isa);

// The best one that runs here, at most what the environment variable THINMAPS_ISA names
// (portable, avx2, avx512, amx). Read once.
Isa ChosenIsa();

}  // namespace thinmaps
