// SPDX-License-Identifier: Apache-2.0
// Eight elements of less than a byte, packed as bits.py says.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thinmaps {

// Eight codes, one per byte, to the low 8 * bits bits, and back: fields double in three rounds.
inline uint64_t Gather(uint64_t codes, size_t bits) {
  const size_t gap = 8 - bits;
  codes = (codes & 0x00FF00FF00FF00FF) | (codes & 0xFF00FF00FF00FF00) >> gap;
  codes = (codes & 0x0000FFFF0000FFFF) | (codes & 0xFFFF0000FFFF0000) >> 2 * gap;
  return (codes & 0x00000000FFFFFFFF) | (codes & 0xFFFFFFFF00000000) >> 4 * gap;
}

// For bits <= 7.
inline uint64_t Scatter(uint64_t packed, size_t bits) {
  const auto field = [bits](size_t codes) { return (uint64_t{1} << codes * bits) - 1; };
  packed = (packed & field(4)) | (packed >> 4 * bits & field(4)) << 32;
  packed = (packed & field(2) * 0x0000000100000001) |
           (packed >> 2 * bits & field(2) * 0x0000000100000001) << 16;
  return (packed & field(1) * 0x0001000100010001) | (packed >> bits & field(1) * 0x0001000100010001)
                                                        << 8;
}

}  // namespace thinmaps
