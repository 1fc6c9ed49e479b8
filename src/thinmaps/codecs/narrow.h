// SPDX-License-Identifier: Apache-2.0
// What the implementations of narrow share: its tables, and loops for every machine. narrow.py
// specifies the payload and the arithmetic.
#pragma once

#include <algorithm>
#include <array>

#include "codec.h"
#include "levels.h"
#include "little_endian.h"
#include "sub_bytes.h"

namespace thinmaps::narrow {

constexpr size_t kBlock = 256;  // codes between the two halves of the work; a multiple of 8

// Narrow.native_integers: one value per channel, the channels repeated `length / channels` times so
// that a loop over a block may run through many pixels of few channels.
struct Tables {
  size_t bits = 0;
  size_t channels = 0;
  size_t length = 0;
  int32_t largest_code = 0;
  Levels levels;
};

inline bool ReadTables(const CodecSpec& spec, Tables* tables) {
  const size_t values = spec.integers.size() - std::min<size_t>(1, spec.integers.size());
  tables->channels = static_cast<size_t>(spec.channels);
  tables->length = values / 6;
  if (tables->channels == 0 || values == 0 || values % 6 != 0) return false;
  if (tables->length % tables->channels != 0) return false;
  if (spec.integers[0] < 1 || spec.integers[0] > 7) return false;
  tables->bits = static_cast<size_t>(spec.integers[0]);
  tables->largest_code = (1 << tables->bits) - 1;
  const int32_t* row = spec.integers.data() + 1;
  for (const int32_t** table :
       {&tables->levels.scale, &tables->levels.encode_offset, &tables->levels.step,
        &tables->levels.decode_offset, &tables->levels.low_code, &tables->levels.high_code}) {
    *table = row;
    row += tables->length;
  }
  return true;
}

inline size_t RowBytes(const CodecSpec& spec, size_t bits) {
  return (static_cast<size_t>(spec.width) * static_cast<size_t>(spec.channels) * bits + 7) / 8;
}

// Writes ceil(count * bits / 8) of `room` bytes and overwrites up to 7 behind them that are inside;
// the codes from `count` up to a multiple of 8 are 0.
inline void Pack(const uint8_t* codes, size_t count, size_t bits, std::span<uint8_t> room) {
  uint64_t packed[kBlock / 8];
  const size_t groups = (count + 7) / 8;
  for (size_t group = 0; group < groups; ++group) {
    packed[group] = Gather(Load64(codes + group * 8), bits);
  }
  for (size_t group = 0; group < groups; ++group) {
    uint8_t* out = room.data() + group * bits;
    const size_t left = room.size() - group * bits;
    if (left >= 8) {
      Store64(packed[group], out);
    } else {
      StorePart(packed[group], out, std::min(left, bits));
    }
  }
}

// Unpacks whole groups of eight; codes behind the end of `packed` are 0.
inline void Unpack(std::span<const uint8_t> packed, size_t groups, size_t bits, uint8_t* codes) {
  const uint64_t used = (uint64_t{1} << 8 * bits) - 1;
  uint64_t words[kBlock / 8];
  for (size_t group = 0; group < groups; ++group) {
    const auto left = packed.subspan(group * bits);
    words[group] = left.size() >= 8 ? Load64(left.data()) & used
                                    : LoadPart(left.data(), std::min(left.size(), bits));
  }
  for (size_t group = 0; group < groups; ++group) {
    Store64(Scatter(words[group], bits), codes + group * 8);
  }
}

// `packed` has the row's ceil(width * channels * bits / 8) bytes, all of which are written.
inline void EncodeRow(const CodecSpec& spec, const Tables& tables, const ConstRows& row,
                      std::span<uint8_t> packed) {
  std::array<uint8_t, kBlock> codes;
  size_t filled = 0;
  size_t channel = 0;
  ForEachRun(row, spec.width, spec.channels, [&](const uint8_t* in, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
      const size_t count = std::min({bytes - i, kBlock - filled, tables.length - channel});
      tables.levels.Quantise(
          in + i, channel, count, [&tables](size_t) { return tables.largest_code; },
          codes.data() + filled);
      i += count;
      filled += count;
      channel = (channel + count) % tables.channels;
      if (filled < kBlock) continue;
      Pack(codes.data(), kBlock, tables.bits, packed);
      packed = packed.subspan(kBlock / 8 * tables.bits);
      filled = 0;
    }
  });
  std::fill(codes.begin() + static_cast<ptrdiff_t>(filled), codes.end(), uint8_t{0});
  Pack(codes.data(), filled, tables.bits, packed);
}

// `packed` is the whole row, of which columns column .. column + columns - 1 go to `row`.
inline bool DecodeRow(const CodecSpec& spec, const Tables& tables, std::span<const uint8_t> packed,
                      int32_t column, int32_t columns, const MutableRows& row) {
  const size_t first = static_cast<size_t>(column) * tables.channels;
  const size_t stop = first + static_cast<size_t>(columns) * tables.channels;
  std::array<uint8_t, kBlock> codes;
  size_t group = first / 8;  // the next to unpack
  size_t ready = 0;          // codes in the block
  size_t used = 0;           // of which these are done
  size_t channel = 0;
  bool good = true;
  ForEachRun(row, columns, spec.channels, [&](uint8_t* out, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
      if (used == ready) {
        // An element is still due, so its group exists and starts inside of the row.
        used = group == first / 8 ? first % 8 : 0;
        const size_t groups = std::min(kBlock / 8, (stop + 7) / 8 - group);
        Unpack(packed.subspan(group * tables.bits), groups, tables.bits, codes.data());
        ready = groups * 8;
        group += groups;
      }
      const size_t count = std::min({bytes - i, ready - used, tables.length - channel});
      good &= tables.levels.Restore(codes.data() + used, channel, count, out + i);
      i += count;
      used += count;
      channel = (channel + count) % tables.channels;
    }
  });
  return good;
}

// Whether the payload is as long as it must be, and no spare bit of a row is set.
inline bool HasWholeRows(const CodecSpec& spec, const Tables& tables,
                         std::span<const uint8_t> payload, int32_t rows) {
  const size_t row_bytes = RowBytes(spec, tables.bits);
  if (payload.size() != static_cast<size_t>(rows) * row_bytes) return false;
  const size_t used_bits =
      static_cast<size_t>(spec.width) * static_cast<size_t>(spec.channels) * tables.bits % 8;
  if (used_bits == 0) return true;
  for (size_t last = row_bytes; last <= payload.size(); last += row_bytes) {
    if (payload[last - 1] >> used_bits != 0) return false;
  }
  return true;
}

inline Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                     size_t* written) {
  Tables tables;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  const size_t row_bytes = RowBytes(spec, tables.bits);
  const size_t unit_bytes = static_cast<size_t>(rows.count) * row_bytes;
  if (payload.size() < unit_bytes) return Status::kTooSmall;

  for (int32_t row = 0; row < rows.count; ++row) {
    EncodeRow(spec, tables, {rows.rows + row, 1, rows.pixel_bytes},
              payload.subspan(static_cast<size_t>(row) * row_bytes, row_bytes));
  }
  *written = unit_bytes;
  return Status::kOk;
}

inline Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
                     int32_t columns, const MutableRows& rows) {
  Tables tables;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  if (!HasWholeRows(spec, tables, payload, rows.count)) return Status::kCorruptPayload;
  const size_t row_bytes = RowBytes(spec, tables.bits);
  for (int32_t row = 0; row < rows.count; ++row) {
    const auto packed = payload.subspan(static_cast<size_t>(row) * row_bytes, row_bytes);
    const MutableRows one{rows.rows + row, 1, rows.pixel_bytes};
    if (!DecodeRow(spec, tables, packed, column, columns, one)) return Status::kCorruptPayload;
  }
  return Status::kOk;
}

}  // namespace thinmaps::narrow
