// SPDX-License-Identifier: Apache-2.0
// What the implementations of zero_bitmap read and write; zero_bitmap.py specifies the payload.
#pragma once

#include <algorithm>
#include <bit>

#include "codec.h"
#include "little_endian.h"

namespace thinmaps::zero_bitmap {

constexpr size_t kChunk = 64;

inline size_t Elements(const CodecSpec& spec, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) *
         static_cast<size_t>(spec.channels);
}

inline size_t BitmapBytes(size_t elements) { return (elements + 7) / 8; }

inline uint64_t LowBits(size_t count) {
  return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
}

// Appends up to 64 bits at a time, in the order of bits.py. Fewer than 64 are held back.
struct BitWriter {
  uint8_t* out;
  uint64_t held = 0;
  size_t held_bits = 0;

  void Append(uint64_t bits, size_t count) {
    if (held_bits + count >= 64) return AppendOver(bits, count);
    held |= bits << held_bits;
    held_bits += count;
  }

  // Where these bits fill the word: always, if they are 64.
  void AppendOver(uint64_t bits, size_t count) {
    Store64(held | bits << held_bits, out);
    out += 8;
    held = bits >> 1 >> (63 - held_bits);
    held_bits += count - 64;
  }

  void Flush() { StorePart(held, out, (held_bits + 7) / 8); }
};

// Takes up to 64 bits at a time from a bitmap that is long enough for all of them.
struct BitReader {
  std::span<const uint8_t> bitmap;
  size_t position = 0;

  uint64_t Take(size_t count) {
    const auto left = bitmap.subspan(position / 8);
    if (left.size() > 8) return TakeInside(count);
    const size_t shift = position % 8;
    position += count;
    return LoadPart(left.data(), left.size()) >> shift & LowBits(count);
  }

  // Whether more than 64 bits follow, so that they can be taken without a look at the end.
  bool IsInside() const { return position / 8 + 8 < bitmap.size(); }

  uint64_t TakeInside(size_t count) {
    const uint8_t* left = bitmap.data() + position / 8;
    const size_t shift = position % 8;
    position += count;
    return (Load64(left) >> shift | uint64_t{left[8]} << 1 << (63 - shift)) & LowBits(count);
  }
};

struct EncodeState {
  BitWriter presence;
  uint8_t* value;  // has room for every element that is still to come
  uint8_t zero;
};

struct DecodeState {
  BitReader presence;
  std::span<const uint8_t> values;
  uint8_t zero;
  bool good = true;  // no value was zero or absent so far

  // Whether a whole chunk can be decoded without a look at either end.
  bool IsInside() const { return presence.IsInside() && values.size() >= kChunk; }

  // The next values; none, and no good, where too few are left.
  std::span<const uint8_t> TakeValues(size_t count) {
    good &= count <= values.size();
    const auto taken = values.first(good ? count : 0);
    values = values.subspan(taken.size());
    return taken;
  }
};

// With steps, elements are symbols, and so many of them go through the loops at a time.
constexpr size_t kStage = 4 * kChunk;

// Stored symbols on their way to or from their bits: those of a stage, and of what is left of the
// one before.
struct Stored {
  uint8_t symbols[2 * kStage];
  size_t count = 0;

  void Drop(size_t used) {
    count -= used;
    std::copy_n(symbols + used, count, symbols);
  }

  // Moves what fills whole bytes to the payload, at its end all; false where it has no room.
  bool Write(size_t element_bits, bool all, std::span<uint8_t>* payload) {
    const size_t in_a_byte = 8 / element_bits;
    const size_t bytes = (all ? count + in_a_byte - 1 : count) / in_a_byte;
    if (payload->size() < bytes) return false;
    if (element_bits == 8) {
      std::copy_n(symbols, bytes, payload->data());
    } else {
      symbols[count] = 0;
      for (size_t i = 0; i < bytes; ++i) {
        (*payload)[i] = static_cast<uint8_t>(symbols[2 * i] | symbols[2 * i + 1] << 4);
      }
    }
    *payload = payload->subspan(bytes);
    Drop(std::min(count, bytes * in_a_byte));
    return true;
  }

  // Fills up with what a stage may need, as far as the payload goes.
  void Read(size_t element_bits, std::span<const uint8_t>* payload) {
    const size_t wanted = count < kStage ? ((kStage - count) * element_bits + 7) / 8 : 0;
    const auto bytes = payload->first(std::min(wanted, payload->size()));
    *payload = payload->subspan(bytes.size());
    if (element_bits == 8) {
      std::copy(bytes.begin(), bytes.end(), symbols + count);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) {
        symbols[count + 2 * i] = bytes[i] & 15;
        symbols[count + 2 * i + 1] = bytes[i] >> 4;
      }
    }
    count += bytes.size() * 8 / element_bits;
  }
};

// Calls visit(first element, channel, elements) for every stage of a run, which begins at channel
// 0.
template <typename Byte, typename Visit>
void ForEachStage(Byte* run, size_t elements, size_t channels, Visit visit) {
  for (size_t i = 0; i < elements; i += kStage) {
    visit(run + i, i % channels, std::min(kStage, elements - i));
  }
}

// Calls visit(offset, channel, elements) for every chunk of a stage.
template <typename Visit>
void ForEachChunk(size_t channel, size_t elements, size_t channels, Visit visit) {
  for (size_t i = 0; i < elements; i += kChunk) {
    visit(i, (channel + i) % channels, std::min(kChunk, elements - i));
  }
}

}  // namespace thinmaps::zero_bitmap
