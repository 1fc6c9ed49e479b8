// SPDX-License-Identifier: Apache-2.0
// How every operator rounds, in the portable loops. For files that are compiled per instruction
// set: internal linkage, nothing of the standard library.
#pragma once

#include "loops.h"

namespace thinmaps {
namespace {

// Adding 1.5 * 2^23 leaves the rounded value of |v| < 2^22 in the low bits of the sum, rounded
// half to even like every float addition; its own low byte is 0.
constexpr float kRoundingShift = 12582912.0f;

[[maybe_unused]] inline uint8_t RoundToByte(float value, const Rounding& rounding) {
  value += rounding.before;
  value = value < rounding.low ? rounding.low : value;
  value = value > rounding.high ? rounding.high : value;
  const auto bits = __builtin_bit_cast(int32_t, value + kRoundingShift);
  return static_cast<uint8_t>(bits + rounding.after);
}

}  // namespace
}  // namespace thinmaps
