// SPDX-License-Identifier: Apache-2.0
// Native twin of zero_bitmap.py, which specifies the payload.
#include <algorithm>
#include <bit>

#include "codec.h"

namespace thinmaps {
namespace {

size_t Elements(const CodecSpec& spec, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) *
         static_cast<size_t>(spec.channels);
}

size_t BitmapBytes(size_t elements) { return (elements + 7) / 8; }

size_t CountBits(std::span<const uint8_t> bitmap) {
  size_t count = 0;
  for (const uint8_t byte : bitmap) count += static_cast<size_t>(std::popcount(byte));
  return count;
}

}  // namespace

Status EncodeZeroBitmap(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                        size_t* written) {
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes + elements) return Status::kTooSmall;

  // With room for the worst case, element i writes presence byte i / 8 and at most value i: the
  // value is stored always and kept only if it is not zero, which costs no branch.
  uint8_t* const bitmap = payload.data();
  uint8_t* value = bitmap + bitmap_bytes;
  size_t element = 0;
  uint32_t pending = 0;
  ForEachRun(rows, spec.width, spec.channels, [&](const uint8_t* in, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i, ++element) {
      const uint32_t present = in[i] != spec.zero_point;
      *value = in[i];
      value += present;
      pending |= present << (element % 8);
      if (element % 8 == 7) {
        bitmap[element / 8] = static_cast<uint8_t>(pending);
        pending = 0;
      }
    }
  });
  if (elements % 8 != 0) bitmap[bitmap_bytes - 1] = static_cast<uint8_t>(pending);
  *written = static_cast<size_t>(value - bitmap);
  return Status::kOk;
}

Status DecodeZeroBitmap(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
                        int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadTables;
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;

  // Count first: with no spare bit set there are as many values as the loop below reads.
  const auto bitmap = payload.first(bitmap_bytes);
  const auto values = payload.subspan(bitmap_bytes);
  if (elements % 8 != 0 && bitmap.back() >> (elements % 8) != 0) return Status::kCorruptPayload;
  if (values.size() != CountBits(bitmap)) return Status::kCorruptPayload;
  const auto zero = static_cast<uint8_t>(spec.zero_point);
  if (std::ranges::find(values, zero) != values.end()) return Status::kCorruptPayload;

  const uint8_t* value = values.data();
  size_t element = 0;
  ForEachRun(rows, spec.width, spec.channels, [&](uint8_t* out, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i, ++element) {
      const bool present = (bitmap[element / 8] >> (element % 8) & 1) != 0;
      out[i] = present ? *value : zero;
      value += present;
    }
  });
  return Status::kOk;
}

}  // namespace thinmaps
