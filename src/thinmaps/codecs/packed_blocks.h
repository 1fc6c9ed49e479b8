// SPDX-License-Identifier: Apache-2.0
// Native twin of packed_blocks.py, which specifies the payload; transform.h has the arithmetic.
//
// A batch of blocks side by side goes through all groups; each block has its own place in the
// payload, and its own bit in it.
#pragma once

#include <algorithm>
#include <array>

#include "bit_stream.h"
#include "codec.h"
#include "transform.h"

namespace thinmaps::packed_blocks {

// Blocks of a unit, and the bytes of each.
struct Layout {
  size_t down = 0;
  size_t across = 0;
  size_t block_bytes = 0;

  size_t Bytes() const { return down * across * block_bytes; }
};

inline Layout LayoutOf(const CodecSpec& spec, const Transform& transform, int32_t rows) {
  const auto high = static_cast<size_t>(rows);
  const auto wide = static_cast<size_t>(spec.width);
  return {(high + transform.rows - 1) / transform.rows,
          (wide + transform.columns - 1) / transform.columns, (transform.block_bits + 7) / 8};
}

// A batch before and behind a stage. What no block fills is computed with and left out, so it is
// set only once.
struct Scratch {
  Batch in{};
  Batch out;
};

// `payload` has the bytes of `blocks` blocks, the first of which lies at `place`.
template <typename Loops>
void EncodeBatch(const CodecSpec& spec, const Transform& transform, const ConstRows& rows,
                 BlockPlace place, size_t blocks, std::span<uint8_t> payload, Scratch* scratch) {
  const size_t block_bytes = payload.size() / blocks;
  std::array<BitWriter, kBatch> writers;
  for (size_t i = 0; i < blocks; ++i) {
    writers[i] = BitWriter(payload.subspan(i * block_bytes, block_bytes));
  }
  transform.ForEachGroup([&](const Group& group) {
    Gather(rows, spec.width, transform, place, blocks, group, &scratch->in);
    Loops::Apply(group.analysis, blocks, scratch->in, &scratch->out);
    for (size_t octet = 0; octet * kOctet < group.components; ++octet) {
      const uint64_t used = group.analysis.Used(octet);
      const auto bits = static_cast<size_t>(std::popcount(used));
      for (size_t i = 0; i < blocks; ++i) {
        const uint64_t codes = Load64(scratch->out[i].data() + octet * kOctet);
        writers[i].Append(Loops::Pack(codes, used), bits);
      }
    }
  });
  for (size_t i = 0; i < blocks; ++i) writers[i].Flush();
}

// The reverse; `payload` begins with these blocks and may go on, columns first .. stop - 1 of the
// unit go to `rows`. Returns whether the payload is one that the encoder writes.
template <typename Loops>
bool DecodeBatch(const Transform& transform, std::span<const uint8_t> payload, BlockPlace place,
                 size_t blocks, size_t first, size_t stop, const MutableRows& rows,
                 Scratch* scratch) {
  const size_t block_bytes = (transform.block_bits + 7) / 8;
  bool good = true;
  size_t bit = 0;
  transform.ForEachGroup([&](const Group& group) {
    for (size_t octet = 0; octet < 2 * group.analysis.tiles; ++octet) {
      const uint64_t used = group.analysis.Used(octet);
      const auto bits = static_cast<size_t>(std::popcount(used));
      // What follows a block is no code's, so reading into it saves a copy of its end.
      const size_t byte = bit / 8;
      const size_t skip = bit % 8;
      const bool whole =
          skip + bits <= 64 && (blocks - 1) * block_bytes + byte + 8 <= payload.size();
      for (size_t i = 0; i < blocks; ++i) {
        const uint64_t word = whole ? Load64(payload.data() + i * block_bytes + byte) >> skip
                                    : BitsAt(payload.subspan(i * block_bytes), bit);
        Store64(Loops::Unpack(word, used), scratch->in[i].data() + octet * kOctet);
      }
      bit += bits;
    }
    Loops::Apply(group.synthesis, blocks, scratch->in, &scratch->out);
    const bool all = group.analysis.HasAllCodes();
    for (size_t i = 0; i < blocks && !all; ++i) {
      good &= AreCodes(group.analysis, scratch->in[i]);
    }
    Scatter(scratch->out, transform, place, blocks, group, first, stop, rows);
  });
  for (size_t i = 0; i < blocks && bit % 8 != 0; ++i) {
    good &= payload[(i + 1) * block_bytes - 1] >> bit % 8 == 0;
  }
  return good;
}

template <typename Loops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Transform transform;
  if (!transform.Read(spec)) return Status::kBadArgument;
  const Layout layout = LayoutOf(spec, transform, rows.count);
  if (payload.size() < layout.Bytes()) return Status::kTooSmall;

  Scratch scratch;
  for (size_t down = 0; down < layout.down; ++down) {
    for (size_t across = 0; across < layout.across; across += kBatch) {
      const size_t blocks = std::min(kBatch, layout.across - across);
      EncodeBatch<Loops>(spec, transform, rows, {down * transform.rows, across * transform.columns},
                         blocks,
                         payload.subspan((down * layout.across + across) * layout.block_bytes,
                                         blocks * layout.block_bytes),
                         &scratch);
    }
  }
  *written = layout.Bytes();
  return Status::kOk;
}

template <typename Loops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Transform transform;
  if (!transform.Read(spec)) return Status::kBadArgument;
  const Layout layout = LayoutOf(spec, transform, rows.count);
  if (payload.size() != layout.Bytes()) return Status::kCorruptPayload;

  const auto first = static_cast<size_t>(column);
  const size_t stop = first + static_cast<size_t>(columns);
  const size_t end = (stop + transform.columns - 1) / transform.columns;
  Scratch scratch;
  for (size_t down = 0; down < layout.down; ++down) {
    for (size_t across = first / transform.columns; across < end; across += kBatch) {
      const size_t blocks = std::min(kBatch, end - across);
      const auto packed = payload.subspan((down * layout.across + across) * layout.block_bytes);
      const BlockPlace place{down * transform.rows, across * transform.columns};
      if (!DecodeBatch<Loops>(transform, packed, place, blocks, first, stop, rows, &scratch)) {
        return Status::kCorruptPayload;
      }
    }
  }
  return Status::kOk;
}

#if defined(__x86_64__)

#define THINMAPS_PACKED_BLOCKS_AVX2 [[gnu::flatten, gnu::target("avx2,bmi2")]]

THINMAPS_PACKED_BLOCKS_AVX2 inline Status EncodeAvx2(const CodecSpec& spec, const ConstRows& rows,
                                                     std::span<uint8_t> payload, size_t* written) {
  return Encode<Avx2Transform>(spec, rows, payload, written);
}
THINMAPS_PACKED_BLOCKS_AVX2 inline Status DecodeAvx2(const CodecSpec& spec,
                                                     std::span<const uint8_t> payload,
                                                     int32_t column, int32_t columns,
                                                     const MutableRows& rows) {
  return Decode<Avx2Transform>(spec, payload, column, columns, rows);
}

#define THINMAPS_PACKED_BLOCKS_AVX512 \
  [[gnu::flatten, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2")]]

THINMAPS_PACKED_BLOCKS_AVX512 inline Status EncodeAvx512(const CodecSpec& spec,
                                                         const ConstRows& rows,
                                                         std::span<uint8_t> payload,
                                                         size_t* written) {
  return Encode<Avx512Transform>(spec, rows, payload, written);
}
THINMAPS_PACKED_BLOCKS_AVX512 inline Status DecodeAvx512(const CodecSpec& spec,
                                                         std::span<const uint8_t> payload,
                                                         int32_t column, int32_t columns,
                                                         const MutableRows& rows) {
  return Decode<Avx512Transform>(spec, payload, column, columns, rows);
}

#endif

}  // namespace thinmaps::packed_blocks
