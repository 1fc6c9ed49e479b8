// SPDX-License-Identifier: Apache-2.0
// Native twin of raw.py, which specifies the payload.
#include <cstring>

#include "codec.h"

namespace thinmaps {
namespace {

Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  const size_t row_bytes = static_cast<size_t>(spec.width) * static_cast<size_t>(spec.channels);
  const size_t unit_bytes = static_cast<size_t>(rows.count) * row_bytes;
  if (payload.size() < unit_bytes) return Status::kTooSmall;

  // The runs are unit_bytes together, so no copy leaves the payload.
  uint8_t* out = payload.data();
  ForEachRun(rows, spec.width, spec.channels, [&](const uint8_t* in, size_t bytes) {
    std::memcpy(out, in, bytes);
    out += bytes;
  });
  *written = unit_bytes;
  return Status::kOk;
}

Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  const auto pixel_bytes = static_cast<size_t>(spec.channels);
  const size_t row_bytes = static_cast<size_t>(spec.width) * pixel_bytes;
  if (payload.size() != static_cast<size_t>(rows.count) * row_bytes) {
    return Status::kCorruptPayload;
  }

  // column + columns <= width, so the runs of a row stay inside its row_bytes.
  for (int32_t row = 0; row < rows.count; ++row) {
    const uint8_t* in = payload.data() + static_cast<size_t>(row) * row_bytes +
                        static_cast<size_t>(column) * pixel_bytes;
    const MutableRows one{rows.rows + row, 1, rows.pixel_bytes};
    ForEachRun(one, columns, spec.channels, [&](uint8_t* out, size_t bytes) {
      std::memcpy(out, in, bytes);
      in += bytes;
    });
  }
  return Status::kOk;
}

}  // namespace

extern const CodecKernel kRaw{"raw", Isa::kPortable, Encode, Decode};

}  // namespace thinmaps
