// SPDX-License-Identifier: Apache-2.0
// Instruction sets that kernels are written for. They change speed, never results.
#pragma once

#include <array>
#include <cstdint>

namespace thinmaps {

// In rising order within a family of processors: whoever runs one of x86 runs those of x86 before
// it. kNeon is ARM's, with the dot products of ARMv8.2.
enum class Isa : int32_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3, kNeon = 4 };

inline constexpr std::array kIsas = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx,
                                     Isa::kNeon};

const char* NameOf(Isa isa);

// Whether this processor and its operating system run `isa`.
bool Runs(Isa isa);

// The best one that runs here, at most what the environment variable THINMAPS_ISA names
// (portable, avx2, avx512, amx, neon). Read once.
Isa ChosenIsa();

}  // namespace thinmaps
