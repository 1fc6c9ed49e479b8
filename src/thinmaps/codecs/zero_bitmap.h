// SPDX-License-Identifier: Apache-2.0
// What the implementations of zero_bitmap read and write; zero_bitmap.py specifies the payload.
#pragma once

#include <algorithm>
#include <bit>

#include "codec.h"
#include "little_endian.h"
#include "steps.h"

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
constexpr size_t kStage = 16 * kChunk;

// Stored symbols on their way to or from their bits: those of a stage, and of what is left of the
// one before, with room for a whole chunk behind them. `Loops` are those of an instruction set.
struct Stored {
  uint8_t symbols[2 * kStage + 2 * kChunk];
  size_t count = 0;

  void Drop(size_t used) {
    count -= used;
    std::copy_n(symbols + used, count, symbols);
  }

  // Moves what fills whole bytes to the payload, at its end all; false where it has no room.
  template <typename Loops>
  bool Write(size_t element_bits, bool all, std::span<uint8_t>* payload) {
    const size_t in_a_byte = 8 / element_bits;
    const size_t bytes = (all ? count + in_a_byte - 1 : count) / in_a_byte;
    if (payload->size() < bytes) return false;
    if (element_bits == 8) {
      std::copy_n(symbols, bytes, payload->data());
    } else {
      symbols[count] = 0;
      Loops::PackHalves(symbols, bytes, payload->data());
    }
    *payload = payload->subspan(bytes);
    Drop(std::min(count, bytes * in_a_byte));
    return true;
  }

  // Fills up with the half bytes that a stage may need, as far as the payload goes.
  template <typename Loops>
  void Read(std::span<const uint8_t>* payload) {
    const size_t wanted = count < kStage ? (kStage - count + 1) / 2 : 0;
    const auto bytes = payload->first(std::min(wanted, payload->size()));
    *payload = payload->subspan(bytes.size());
    Loops::UnpackHalves(bytes.data(), bytes.size(), symbols + count);
    count += 2 * bytes.size();
  }
};

// The tables of a map, in the form of the portable loops.
struct StepTables {
  const Steps& steps;
  size_t channels;
};

// Calls visit(first element, its index in the run, elements) for every stage of a run, which begins
// at channel 0.
template <typename Byte, typename Visit>
void ForEachStage(Byte* run, size_t elements, Visit visit) {
  for (size_t i = 0; i < elements; i += kStage) visit(run + i, i, std::min(kStage, elements - i));
}

// Calls visit(offset, channel, elements) for every chunk of a stage that begins at index `first`.
template <typename Visit>
void ForEachChunk(size_t channels, size_t first, size_t elements, Visit visit) {
  for (size_t i = 0; i < elements; i += kChunk) {
    visit(i, (first + i) % channels, std::min(kChunk, elements - i));
  }
}

template <typename Loops>
Status EncodeBytes(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                   size_t* written) {
  // With room for the worst case, neither stream can leave the payload.
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes + elements) return Status::kTooSmall;

  EncodeState state{
      {payload.data()}, payload.data() + bitmap_bytes, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, spec.width, spec.channels,
             [&state](const uint8_t* in, size_t bytes) { Loops::EncodeRun(in, bytes, &state); });
  state.presence.Flush();
  *written = static_cast<size_t>(state.value - payload.data());
  return Status::kOk;
}

template <typename Loops>
Status DecodeBytes(const CodecSpec& spec, std::span<const uint8_t> payload,
                   const MutableRows& rows) {
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;

  const auto bitmap = payload.first(bitmap_bytes);
  const auto values = payload.subspan(bitmap_bytes);
  if (elements % 8 != 0 && bitmap.back() >> (elements % 8) != 0) return Status::kCorruptPayload;

  DecodeState state{{bitmap}, values, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, spec.width, spec.channels,
             [&state](uint8_t* out, size_t bytes) { Loops::DecodeRun(out, bytes, &state); });
  return state.good && state.values.empty() ? Status::kOk : Status::kCorruptPayload;
}

// With steps, a stage of symbols at a time goes through the same chunks, with 0 for zero. `Loops`
// are those of an instruction set.
inline bool ReadSteps(const CodecSpec& spec, Steps* steps, size_t* element_bits) {
  if (spec.integers.size() != 1 || (spec.integers[0] != 4 && spec.integers[0] != 8)) return false;
  *element_bits = static_cast<size_t>(spec.integers[0]);
  return ReadSteps(spec, steps);
}

template <typename Loops>
Status EncodeSteps(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                   size_t* written) {
  Steps steps;
  size_t element_bits = 0;
  if (!ReadSteps(spec, &steps, &element_bits)) return Status::kBadArgument;
  const size_t bitmap_bytes = BitmapBytes(Elements(spec, rows.count));
  if (payload.size() < bitmap_bytes) return Status::kTooSmall;
  const typename Loops::Tables tables{steps, static_cast<size_t>(spec.channels)};
  std::span<uint8_t> room = payload.subspan(bitmap_bytes);
  Stored stored;
  EncodeState state{{payload.data()}, nullptr, 0};
  bool good = true;
  ForEachRun(rows, spec.width, spec.channels, [&](const uint8_t* run, size_t bytes) {
    ForEachStage(run, bytes, [&](const uint8_t* in, size_t first, size_t elements) {
      const bool straight = element_bits == 8 && room.size() >= elements;
      state.value = straight ? room.data() : stored.symbols + stored.count;
      Loops::EncodeStage(tables, first, in, elements, &state);
      if (straight) {
        room = room.subspan(static_cast<size_t>(state.value - room.data()));
        return;
      }
      stored.count = static_cast<size_t>(state.value - stored.symbols);
      good = good && stored.Write<Loops>(element_bits, false, &room);
      if (!good) stored.count = 0;
    });
  });
  if (!good || !stored.Write<Loops>(element_bits, true, &room)) return Status::kTooSmall;
  state.presence.Flush();
  *written = payload.size() - room.size();
  return Status::kOk;
}

template <typename Loops>
Status DecodeSteps(const CodecSpec& spec, std::span<const uint8_t> payload,
                   const MutableRows& rows) {
  Steps steps;
  size_t element_bits = 0;
  if (!ReadSteps(spec, &steps, &element_bits)) return Status::kBadArgument;
  const size_t all_elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(all_elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;
  const auto bitmap = payload.first(bitmap_bytes);
  if (all_elements % 8 != 0 && bitmap.back() >> (all_elements % 8) != 0) {
    return Status::kCorruptPayload;
  }
  const typename Loops::Tables tables{steps, static_cast<size_t>(spec.channels)};
  std::span<const uint8_t> left = payload.subspan(bitmap_bytes);
  Stored stored;
  DecodeState state{{bitmap}, element_bits == 8 ? left : std::span<const uint8_t>{}, 0};
  bool good = true;
  ForEachRun(rows, spec.width, spec.channels, [&](uint8_t* run, size_t bytes) {
    ForEachStage(run, bytes, [&](uint8_t* out, size_t first, size_t elements) {
      if (element_bits == 8) {
        good &= Loops::DecodeStage(tables, first, out, elements, &state);
        return;
      }
      stored.Read<Loops>(&left);
      state.values = {stored.symbols, stored.count};
      good &= Loops::DecodeStage(tables, first, out, elements, &state);
      stored.Drop(stored.count - state.values.size());
    });
  });
  good &= state.good;
  if (element_bits == 8)
    return good && state.values.empty() ? Status::kOk : Status::kCorruptPayload;
  // A spare symbol may be left, which is 0.
  good &= left.empty() && stored.count < 2;
  return good && (stored.count == 0 || stored.symbols[0] == 0) ? Status::kOk
                                                               : Status::kCorruptPayload;
}

template <typename Loops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  const auto encode = spec.tables.empty() ? EncodeBytes<Loops> : EncodeSteps<Loops>;
  return encode(spec, rows, payload, written);
}

template <typename Loops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  const auto decode = spec.tables.empty() ? DecodeBytes<Loops> : DecodeSteps<Loops>;
  return decode(spec, payload, rows);
}

}  // namespace thinmaps::zero_bitmap
