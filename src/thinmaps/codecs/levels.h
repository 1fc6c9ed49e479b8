// SPDX-License-Identifier: Apache-2.0
// Bytes to codes and back, by a step and a zero code per channel: the arithmetic that levels.py
// specifies, for the codecs that differ in how they pack the codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace thinmaps {

// Rows of one value per element, the channels repeated so that a loop runs through many pixels.
struct Levels {
  const int32_t* scale = nullptr;
  const int32_t* encode_offset = nullptr;
  const int32_t* step = nullptr;
  const int32_t* decode_offset = nullptr;
  const int32_t* low_code = nullptr;
  const int32_t* high_code = nullptr;

  static constexpr int kFractionBits = 15;

  // `largest(i)` is the largest code of element first + i of the tables.
  template <typename Largest>
  void Quantise(const uint8_t* in, size_t first, size_t count, Largest largest,
                uint8_t* codes) const {
    const int32_t* factor = scale + first;
    const int32_t* offset = encode_offset + first;
    for (size_t i = 0; i < count; ++i) {
      const int32_t code = (in[i] * factor[i] + offset[i]) >> kFractionBits;
      codes[i] = static_cast<uint8_t>(std::clamp(code, 0, largest(i)));
    }
  }

  // Returns whether every code is one that the encoder writes.
  bool Restore(const uint8_t* codes, size_t first, size_t count, uint8_t* out) const {
    const int32_t* factor = step + first;
    const int32_t* offset = decode_offset + first;
    const int32_t* low = low_code + first;
    const int32_t* high = high_code + first;
    int32_t wrong = 0;
    for (size_t i = 0; i < count; ++i) {
      const int32_t code = codes[i];
      wrong |= static_cast<int32_t>(code < low[i]) | static_cast<int32_t>(code > high[i]);
      out[i] =
          static_cast<uint8_t>(std::clamp((code * factor[i] + offset[i]) >> kFractionBits, 0, 255));
    }
    return wrong == 0;
  }
};

}  // namespace thinmaps
