// SPDX-License-Identifier: Apache-2.0
// Numbers as little-endian bytes, on machines of either order.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace thinmaps {

inline uint64_t Load64(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
  return word;
}

inline void Store64(uint64_t word, uint8_t* bytes) {
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
  std::memcpy(bytes, &word, sizeof word);
}

// The first `count` <= 8 bytes of a number only, where the other ones are not ours to touch.
inline uint64_t LoadPart(const uint8_t* bytes, size_t count) {
  uint64_t word = 0;
  for (size_t i = 0; i < count; ++i) word |= uint64_t{bytes[i]} << 8 * i;
  return word;
}

inline void StorePart(uint64_t word, uint8_t* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(word >> 8 * i);
}

}  // namespace thinmaps
