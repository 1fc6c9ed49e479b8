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

namespace thinmaps {

enum class Status : int32_t { kOk = 0, kCorruptPayload = 1, kTooSmall = 2 };

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

using EncodeUnit = Status (*)(const CodecSpec& spec, const ConstRows& rows,
                              std::span<uint8_t> payload, size_t* written);
// Decodes columns column .. column + columns - 1 (all of them for variable-rate codecs).
using DecodeUnit = Status (*)(const CodecSpec& spec, std::span<const uint8_t> payload,
                              int32_t column, int32_t columns, const MutableRows& rows);

struct CodecKernel {
  const char* id;
  EncodeUnit encode;
  DecodeUnit decode;
};

// The table in native/codec.cc: explicit, so that a missing kernel is visible.
std::span<const CodecKernel> CodecKernels();

// The kernel of that id, or nullptr.
const CodecKernel* FindCodec(std::string_view id);

}  // namespace thinmaps
