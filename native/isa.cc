// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <array>
#include <cstdlib>
#include <string_view>

namespace thinmaps {
namespace {

constexpr std::array kAll = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

Isa Choose() {
  const char* asked = std::getenv("THINMAPS_ISA");
  Isa best = Isa::kPortable;
  for (const Isa isa : kAll) {
    if (Runs(isa)) best = isa;
    if (asked != nullptr && std::string_view(asked) == NameOf(isa)) break;
  }
  return best;
}

}  // namespace

const char* NameOf(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

bool Runs(Isa isa) {
  if (isa == Isa::kPortable) return true;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("x86-64-v3") != 0;
  return __builtin_cpu_supports("x86-64-v4") != 0 && __builtin_cpu_supports("avx512vbmi") != 0 &&
         __builtin_cpu_supports("avx512vbmi2") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
#else
  return false;
#endif
}

Isa ChosenIsa() {
  static const Isa chosen = Choose();
  return chosen;
}

}  // namespace thinmaps
