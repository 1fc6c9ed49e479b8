// SPDX-License-Identifier: Apache-2.0
// Words of up to 64 bits one after the other, the first bits the lowest, as bits.py says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "little_endian.h"

namespace thinmaps {

// Appends words of up to 64 bits to a room; what would lie behind its end is 0 and left out.
class BitWriter {
 public:
  BitWriter() = default;
  explicit BitWriter(std::span<uint8_t> room) : room_(room) {}

  void Append(uint64_t word, size_t bits) {
    pending_ |= word << filled_;
    if (filled_ + bits < 64) {
      filled_ += bits;
      return;
    }
    Flush();
    const size_t taken = 64 - filled_;
    pending_ = taken < 64 ? word >> taken : 0;
    filled_ = bits - taken;
  }

  // Once, at the end.
  void Flush() {
    if (room_.size() >= 8) {
      Store64(pending_, room_.data());
      room_ = room_.subspan(8);
    } else {
      StorePart(pending_, room_.data(), room_.size());
      room_ = {};
    }
  }

 private:
  std::span<uint8_t> room_;
  uint64_t pending_ = 0;
  size_t filled_ = 0;  // < 64
};

// 64 bits from bit `first` on; those behind the end of `packed` are 0.
inline uint64_t BitsAt(std::span<const uint8_t> packed, size_t first) {
  const size_t byte = first / 8;
  const size_t skip = first % 8;
  if (byte + 9 <= packed.size()) {
    const uint64_t rest = packed[byte + 8];
    return Load64(packed.data() + byte) >> skip | rest << 1 << (63 - skip);
  }
  if (byte >= packed.size()) return 0;
  const size_t left = packed.size() - byte;
  return LoadPart(packed.data() + byte, std::min<size_t>(left, 8)) >> skip;
}

}  // namespace thinmaps
