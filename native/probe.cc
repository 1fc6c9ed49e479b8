// SPDX-License-Identifier: Apache-2.0
// In `asm`, because a compiler sees that nobody wants the results.
#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace thinmaps {
namespace {

constexpr int kTurns = 15;

// Seconds of the fastest of some calls.
template <typename Work>
double Fastest(const Work& work) {
  using Clock = std::chrono::steady_clock;
  double fastest = std::numeric_limits<double>::max();
  for (int turn = 0; turn < kTurns; ++turn) {
    const Clock::time_point start = Clock::now();
    work();
    fastest = std::min(fastest, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return fastest;
}

#if defined(__x86_64__)

// Independent instructions, enough to hide the latency of one: to registers 1 to 10.
#define THINMAPS_TEN(start)                                                                 \
  start "1\n\t" start "2\n\t" start "3\n\t" start "4\n\t" start "5\n\t" start "6\n\t" start \
        "7\n\t" start "8\n\t" start "9\n\t" start "10\n\t"
#define THINMAPS_TEN_REGISTERS \
  "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10"
constexpr int kInstructions = 10;

// Each does `rounds` times kInstructions and returns the products of one instruction.
int64_t MultiplyPortable(int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile(THINMAPS_TEN("pmaddwd %%xmm0, %%xmm")::: THINMAPS_TEN_REGISTERS);
  }
  return 8;
}

int64_t MultiplyAvx2(int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile(THINMAPS_TEN("vpmaddwd %%ymm0, %%ymm0, %%ymm")::: THINMAPS_TEN_REGISTERS);
  }
  asm volatile("vzeroupper" ::);
  return 16;
}

int64_t MultiplyAvx512(int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile(THINMAPS_TEN("vpdpbusd %%zmm0, %%zmm0, %%zmm")::: THINMAPS_TEN_REGISTERS);
  }
  asm volatile("vzeroupper" ::);
  return 64;
}

// Tiles of 16 rows of 64 bytes: 16 x 16 sums of 64 products each. Tiles 0 to 4 are the sums.
int64_t MultiplyAmx(int64_t rounds) {
  alignas(64) uint8_t configuration[64] = {1};  // palette 1
  for (int tile = 0; tile < 7; ++tile) {
    configuration[16 + 2 * tile] = 64;  // bytes of a row
    configuration[48 + tile] = 16;      // rows
  }
  asm volatile("ldtilecfg %0" ::"m"(configuration));
  for (int64_t done = 0; done < rounds * kInstructions; done += 5) {
    asm volatile(
        "tdpbusd %%tmm6, %%tmm5, %%tmm0\n\ttdpbusd %%tmm6, %%tmm5, %%tmm1\n\t"
        "tdpbusd %%tmm6, %%tmm5, %%tmm2\n\ttdpbusd %%tmm6, %%tmm5, %%tmm3\n\t"
        "tdpbusd %%tmm6, %%tmm5, %%tmm4" ::);
  }
  asm volatile("tilerelease" ::);
  return int64_t{16} * 16 * 64;
}

int64_t Multiply(Isa isa, int64_t rounds) {
  switch (isa) {
    case Isa::kAmx:
      return MultiplyAmx(rounds);
    case Isa::kAvx512:
      return MultiplyAvx512(rounds);
    case Isa::kAvx2:
      return MultiplyAvx2(rounds);
    case Isa::kNeon:  // runs on no x86
    case Isa::kPortable:
      break;
  }
  return MultiplyPortable(rounds);
}

#else

constexpr int kInstructions = 4096;

#if defined(__aarch64__)

#define THINMAPS_DOT(to) "sdot v" #to ".4s, v0.16b, v0.16b\n\t"

// Eight independent instructions, enough to hide the latency of one.
__attribute__((target("arch=armv8.2-a+dotprod"))) int64_t MultiplyNeon(int64_t rounds) {
  for (int64_t done = 0; done < rounds * kInstructions; done += 8) {
    asm volatile(THINMAPS_DOT(1) THINMAPS_DOT(2) THINMAPS_DOT(3) THINMAPS_DOT(4) THINMAPS_DOT(5)
                     THINMAPS_DOT(6) THINMAPS_DOT(7) THINMAPS_DOT(16)::
                         : "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16");
  }
  return 16;
}

#endif

// Without dot products: what the compiler makes of the sums of the portable loops.
int64_t Multiply([[maybe_unused]] Isa isa, int64_t rounds) {
#if defined(__aarch64__)
  if (isa == Isa::kNeon) return MultiplyNeon(rounds);
#endif
  std::vector<uint8_t> x(kInstructions, 1);
  std::vector<int8_t> filters(kInstructions, 1);
  for (int64_t round = 0; round < rounds; ++round) {
    int32_t sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += int32_t{x[i]} * filters[i];
    asm volatile("" : : "r"(sum), "r"(x.data()), "r"(filters.data()) : "memory");
  }
  return 1;
}

#endif

}  // namespace

double ProductsPerSecond(Isa isa) {
  constexpr int64_t kRounds = 1 << 13;
  int64_t products = 0;
  const double seconds = Fastest([&] { products = Multiply(isa, kRounds); });
  return static_cast<double>(products * kRounds * kInstructions) / seconds;
}

double CopiedBytesPerSecond() {
  constexpr size_t kBytes = 128 << 10;
  constexpr int kCopies = 64;
  const std::vector<uint8_t> from(kBytes, 1);
  std::vector<uint8_t> to(kBytes);
  const double seconds = Fastest([&] {
    for (int copy = 0; copy < kCopies; ++copy) {
      std::memcpy(to.data(), from.data(), kBytes);
      asm volatile("" : : "r"(to.data()) : "memory");
    }
  });
  return 2.0 * kBytes * kCopies / seconds;
}

}  // namespace thinmaps
