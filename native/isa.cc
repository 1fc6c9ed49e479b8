// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif

namespace thinmaps {
namespace {

Isa Choose() {
  const char* asked = std::getenv("THINMAPS_ISA");
  Isa best = Isa::kPortable;
  for (const Isa isa : kIsas) {
    if (Runs(isa)) best = isa;
    if (asked != nullptr && std::string_view(asked) == NameOf(isa)) break;
  }
  return best;
}

#if defined(__x86_64__)

// CPUID leaf 7: AMX-TILE and AMX-INT8.
bool HasTiles() {
  constexpr uint32_t kBoth = 3u << 24;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBoth) == kBoth;
}

// Asks the system for the 8 KiB of tile registers, for all threads of this process; it may refuse.
bool MayUseTiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#elif defined(__aarch64__)

// SDOT, optional in ARMv8.2: only the system can say.
bool HasDotProducts() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  int32_t has = 0;
  size_t bytes = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &bytes, nullptr, 0) == 0 && has != 0;
#else
  return false;
#endif
}

#endif

}  // namespace

const char* NameOf(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

bool Runs(Isa isa) {
  if (isa == Isa::kPortable) return true;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("x86-64-v3") != 0;
  const bool runs_avx512 =
      __builtin_cpu_supports("x86-64-v4") != 0 && __builtin_cpu_supports("avx512vbmi") != 0 &&
      __builtin_cpu_supports("avx512vbmi2") != 0 && __builtin_cpu_supports("avx512vnni") != 0 &&
      __builtin_cpu_supports("avx512vpopcntdq") != 0;
  if (isa == Isa::kAvx512) return runs_avx512;
  static const bool may_use_tiles = HasTiles() && MayUseTiles();
  return isa == Isa::kAmx && runs_avx512 && may_use_tiles;
#elif defined(__aarch64__)
  return isa == Isa::kNeon && HasDotProducts();
#else
  return false;
#endif
}

Isa ChosenIsa() {
  static const Isa chosen = Choose();
  return chosen;
}

}  // namespace thinmaps
