// SPDX-License-Identifier: Apache-2.0
// The native side of a codec: what src/thinmaps/codecs/<id>.cc provides.
//
// codecs/<id>.py specifies the payload; the twin must produce the same bytes and refuse the same
// payloads. Kernels allocate nothing, throw nothing, and never read or write outside their spans.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "isa.h"

namespace thinmaps {

enum class Status : int32_t { kOk = 0, kCorruptPayload = 1, kTooSmall = 2, kBadArgument = 3 };

// One map's geometry with the codec's own configuration and tables
// (Codec.native_integers and Codec.native_tables).
struct CodecSpec {
  int32_t width = 0;
  int32_t channels = 0;
  int32_t zero_point = 0;
  std::span<const int32_t> integers;
  std::span<const uint8_t> tables;
};

// Rows of one coding unit in memory: pixel p of row r starts at rows[r] + p * pixel_bytes.
// The channels of a pixel are contiguous; pixel_bytes >= channels.
struct ConstRows {
  const uint8_t* const* rows = nullptr;
  int32_t count = 0;
  ptrdiff_t pixel_bytes = 0;
};
struct MutableRows {
  uint8_t* const* rows = nullptr;
  int32_t count = 0;
  ptrdiff_t pixel_bytes = 0;
};

// Calls visit(first byte, bytes) for every contiguous stretch of `columns` pixels of every row, in
// the order of the elements: a whole row where pixels touch, a pixel where they do not.
template <typename Rows, typename Visit>
void ForEachRun(const Rows& rows, int32_t columns, int32_t channels, Visit visit) {
  const bool dense = rows.pixel_bytes == channels;
  const int32_t runs = dense ? 1 : columns;
  const size_t bytes = static_cast<size_t>(channels) * static_cast<size_t>(dense ? columns : 1);
  for (int32_t row = 0; row < rows.count; ++row) {
    for (int32_t run = 0; run < runs; ++run) {
      visit(rows.rows[row] + run * rows.pixel_bytes, bytes);
    }
  }
}

// `payload` has exactly Codec.unit_bytes; what is behind `written` is left as it comes.
using EncodeUnit = Status (*)(const CodecSpec& spec, const ConstRows& rows,
                              std::span<uint8_t> payload, size_t* written);
// Decodes columns column .. column + columns - 1 (all of them for variable-rate codecs).
using DecodeUnit = Status (*)(const CodecSpec& spec, std::span<const uint8_t> payload,
                              int32_t column, int32_t columns, const MutableRows& rows);

// Whether a unit passed its cap, so that the encoder stored it more coarsely than was asked for.
using Overflowed = bool (*)(std::span<const uint8_t> payload);

struct CodecKernel {
  const char* id;
  Isa isa;
  EncodeUnit encode;
  DecodeUnit decode;
  Overflowed overflowed = nullptr;  // nullptr where no unit can
};

// The table in native/codec.cc: explicit, so that a missing kernel is visible.
std::span<const CodecKernel> CodecKernels();

// The kernel of that id for ChosenIsa(), or the best below it; nullptr where there is none.
const CodecKernel* FindCodec(std::string_view id);

// The same for an instruction set that the caller's own kernel is compiled for.
const CodecKernel* FindCodec(std::string_view id, Isa most);

// The kernel of that id for exactly that instruction set; nullptr where it is missing or would not
// run on this processor.
const CodecKernel* FindCodec(std::string_view id, std::string_view isa);

}  // namespace thinmaps
