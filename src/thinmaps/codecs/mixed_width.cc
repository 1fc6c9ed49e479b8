// SPDX-License-Identifier: Apache-2.0
// Native twin of mixed_width.py, which specifies the payload and the arithmetic: loops for rows of
// any kind. Dense ones have vectors of their own in mixed_width_avx512.cc.
#include "mixed_width.h"

#include <algorithm>
#include <array>
#include <bit>

#include "bit_stream.h"
#include "codec.h"
#include "intrinsics.h"
#include "levels.h"
#include "levels_avx512.h"
#include "little_endian.h"

#if defined(__x86_64__)
#define THINMAPS_BMI2 [[gnu::target("bmi2")]]
#define THINMAPS_AVX2 [[gnu::flatten, gnu::target("avx2,bmi2")]]
#define THINMAPS_AVX512 \
  [[gnu::flatten, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,bmi2,prefer-vector-width=512")]]
#endif

namespace thinmaps {
namespace {

constexpr size_t kGroup = 8;
constexpr size_t kBlock = 256;  // codes between the two halves of the work; a multiple of kGroup

// MixedWidth.native_integers. Elements and groups of a row walk through the period again and again.
struct Tables {
  size_t channels = 0;
  size_t period = 0;  // elements, a multiple of channels and of kGroup
  size_t groups = 0;
  size_t period_bits = 0;
  Levels levels;
#if defined(__x86_64__)
  ByteTables bytes;
#endif
  const int32_t* largest_code = nullptr;
  const int32_t* width = nullptr;
  const int32_t* used_low = nullptr;
  const int32_t* used_high = nullptr;
  const int32_t* first_bit = nullptr;

  uint64_t Used(size_t group) const {
    return static_cast<uint64_t>(static_cast<uint32_t>(used_high[group])) << 32 |
           static_cast<uint32_t>(used_low[group]);
  }
};

bool ReadTables(const CodecSpec& spec, Tables* tables) {
  // One number, then 8 rows of a period's elements and 3 of its groups: 67 numbers per group.
  if (spec.integers.size() < 68 || (spec.integers.size() - 1) % 67 != 0) return false;
  tables->channels = static_cast<size_t>(spec.channels);
  tables->groups = (spec.integers.size() - 1) / 67;
  tables->period = tables->groups * kGroup;
  if (tables->channels == 0 || tables->period % tables->channels != 0) return false;
  if (spec.integers[0] < 1) return false;
  tables->period_bits = static_cast<size_t>(spec.integers[0]);
  const int32_t* row = spec.integers.data() + 1;
  for (const int32_t** table :
       {&tables->levels.scale, &tables->levels.encode_offset, &tables->levels.step,
        &tables->levels.decode_offset, &tables->levels.low_code, &tables->levels.high_code,
        &tables->largest_code, &tables->width}) {
    *table = row;
    row += tables->period;
  }
  for (const int32_t** table : {&tables->used_low, &tables->used_high, &tables->first_bit}) {
    *table = row;
    row += tables->groups;
  }
#if defined(__x86_64__)
  if (!ReadByteTables(spec, &tables->bytes)) return false;
#endif
  const size_t last = tables->groups - 1;
  const auto last_bits = static_cast<size_t>(std::popcount(tables->Used(last)));
  return static_cast<size_t>(tables->first_bit[last]) + last_bits == tables->period_bits;
}

// The channels repeat a whole number of times in a period, so the division leaves nothing.
size_t RowBits(const CodecSpec& spec, const Tables& tables) {
  const size_t pixels = tables.period / tables.channels;
  return static_cast<size_t>(spec.width) * (tables.period_bits / pixels);
}

// Bytes to codes and back, from element `first` of the period on.
struct Int32Levels {
  static void Quantise(const CodecSpec&, const Tables& tables, const uint8_t* in, size_t first,
                       size_t count, uint8_t* codes) {
    const int32_t* largest = tables.largest_code + first;
    tables.levels.Quantise(in, first, count, [largest](size_t at) { return largest[at]; }, codes);
  }
  static bool Restore(const CodecSpec&, const Tables& tables, const uint8_t* codes, size_t first,
                      size_t count, uint8_t* out) {
    return tables.levels.Restore(codes, first, count, out);
  }
};

// Eight codes, one per byte, to as many bits as they have, and back.
struct PortableBits : Int32Levels {
  static uint64_t Gather(uint64_t codes, const Tables& tables, size_t group) {
    const int32_t* width = tables.width + group * kGroup;
    uint64_t word = 0;
    int shift = 0;
    for (size_t i = 0; i < kGroup; ++i) {
      // A code of no bits is 0, and behind it the shift may be all of 64.
      if (width[i] != 0) word |= (codes >> 8 * i & 0xFF) << shift;
      shift += width[i];
    }
    return word;
  }
  static uint64_t Scatter(uint64_t word, const Tables& tables, size_t group) {
    const int32_t* width = tables.width + group * kGroup;
    uint64_t codes = 0;
    int shift = 0;
    for (size_t i = 0; i < kGroup; ++i) {
      if (width[i] == 0) continue;
      codes |= (word >> shift & ((uint64_t{1} << width[i]) - 1)) << 8 * i;
      shift += width[i];
    }
    return codes;
  }
};

#if defined(__x86_64__)
struct Bmi2Bits : Int32Levels {
  THINMAPS_BMI2 static uint64_t Gather(uint64_t codes, const Tables& tables, size_t group) {
    return _pext_u64(codes, tables.Used(group));
  }
  THINMAPS_BMI2 static uint64_t Scatter(uint64_t word, const Tables& tables, size_t group) {
    return _pdep_u64(word, tables.Used(group));
  }
};

// With the levels in 16-bit lanes.
struct Avx512Bits : Bmi2Bits {
  static constexpr size_t kChunk = 64;

  THINMAPS_AVX512 static void Quantise(const CodecSpec& spec, const Tables& tables,
                                       const uint8_t* in, size_t first, size_t count,
                                       uint8_t* codes) {
    for (size_t i = 0; i < count; i += kChunk) {
      const __mmask64 used = _bzhi_u64(~uint64_t{0}, std::min(kChunk, count - i));
      const Quantiser quantiser(spec, tables.bytes, (first + i) % tables.channels);
      const __m512i x = _mm512_maskz_loadu_epi8(used, in + i);
      _mm512_mask_storeu_epi8(codes + i, used, quantiser.Codes(x));
    }
  }

  THINMAPS_AVX512 static bool Restore(const CodecSpec& spec, const Tables& tables,
                                      const uint8_t* codes, size_t first, size_t count,
                                      uint8_t* out) {
    __mmask64 wrong = 0;
    for (size_t i = 0; i < count; i += kChunk) {
      const __mmask64 used = _bzhi_u64(~uint64_t{0}, std::min(kChunk, count - i));
      Restorer restorer(spec, tables.bytes, (first + i) % tables.channels);
      const __m512i x = _mm512_maskz_loadu_epi8(used, codes + i);
      _mm512_mask_storeu_epi8(out + i, used, restorer.Bytes(x, used));
      wrong |= restorer.wrong;
    }
    return wrong == 0;
  }
};
#endif

// `packed` has the row's bytes, all of which are written.
template <typename Bits>
void EncodeRow(const CodecSpec& spec, const Tables& tables, const ConstRows& row,
               std::span<uint8_t> packed) {
  alignas(64) std::array<uint8_t, kBlock> codes;
  BitWriter writer(packed);
  size_t filled = 0;
  size_t element = 0;  // of the period, of the next element to quantise
  size_t group = 0;    // of the period, of the next codes to pack
  const auto pack = [&](size_t count) {
    for (size_t i = 0; i < count; i += kGroup) {
      const auto bits = static_cast<size_t>(std::popcount(tables.Used(group)));
      writer.Append(Bits::Gather(Load64(codes.data() + i), tables, group), bits);
      group = group + 1 == tables.groups ? 0 : group + 1;
    }
  };
  ForEachRun(row, spec.width, spec.channels, [&](const uint8_t* in, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
      const size_t count = std::min({bytes - i, kBlock - filled, tables.period - element});
      Bits::Quantise(spec, tables, in + i, element, count, codes.data() + filled);
      i += count;
      filled += count;
      element = element + count == tables.period ? 0 : element + count;
      if (filled < kBlock) continue;
      pack(kBlock);
      filled = 0;
    }
  });
  std::fill(codes.begin() + static_cast<ptrdiff_t>(filled), codes.end(), uint8_t{0});
  pack(filled);
  writer.Flush();
}

// `packed` is the whole row, of which columns column .. column + columns - 1 go to `row`.
template <typename Bits>
bool DecodeRow(const CodecSpec& spec, const Tables& tables, std::span<const uint8_t> packed,
               int32_t column, int32_t columns, const MutableRows& row) {
  const size_t first = static_cast<size_t>(column) * tables.channels;
  const size_t stop = first + static_cast<size_t>(columns) * tables.channels;
  alignas(64) std::array<uint8_t, kBlock> codes;
  size_t next = first / kGroup;  // group of the row to unpack next
  size_t group = next % tables.groups;
  size_t period_start = next / tables.groups * tables.period_bits;
  size_t ready = 0;  // codes in the block
  size_t used = 0;   // of which these are done
  size_t element = first % tables.period;
  bool good = true;
  ForEachRun(row, columns, spec.channels, [&](uint8_t* out, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
      if (used == ready) {
        used = next == first / kGroup ? first % kGroup : 0;
        const size_t groups = std::min(kBlock / kGroup, (stop + kGroup - 1) / kGroup - next);
        for (size_t at = 0; at < groups; ++at) {
          const size_t bit = period_start + static_cast<size_t>(tables.first_bit[group]);
          const uint64_t word = Bits::Scatter(BitsAt(packed, bit), tables, group);
          Store64(word, codes.data() + at * kGroup);
          if (++group < tables.groups) continue;
          group = 0;
          period_start += tables.period_bits;
        }
        ready = groups * kGroup;
        next += groups;
      }
      const size_t count = std::min({bytes - i, ready - used, tables.period - element});
      good &= Bits::Restore(spec, tables, codes.data() + used, element, count, out + i);
      i += count;
      used += count;
      element = element + count == tables.period ? 0 : element + count;
    }
  });
  return good;
}

template <typename Bits>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Tables tables;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  const size_t row_bytes = (RowBits(spec, tables) + 7) / 8;
  const size_t unit_bytes = static_cast<size_t>(rows.count) * row_bytes;
  if (payload.size() < unit_bytes) return Status::kTooSmall;

  for (int32_t row = 0; row < rows.count; ++row) {
    EncodeRow<Bits>(spec, tables, {rows.rows + row, 1, rows.pixel_bytes},
                    payload.subspan(static_cast<size_t>(row) * row_bytes, row_bytes));
  }
  *written = unit_bytes;
  return Status::kOk;
}

template <typename Bits>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Tables tables;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  const size_t row_bits = RowBits(spec, tables);
  const size_t row_bytes = (row_bits + 7) / 8;
  if (payload.size() != static_cast<size_t>(rows.count) * row_bytes) {
    return Status::kCorruptPayload;
  }

  for (int32_t row = 0; row < rows.count; ++row) {
    const auto packed = payload.subspan(static_cast<size_t>(row) * row_bytes, row_bytes);
    if (row_bits % 8 != 0 && packed.back() >> row_bits % 8 != 0) return Status::kCorruptPayload;
    const MutableRows one{rows.rows + row, 1, rows.pixel_bytes};
    if (!DecodeRow<Bits>(spec, tables, packed, column, columns, one)) {
      return Status::kCorruptPayload;
    }
  }
  return Status::kOk;
}

#if defined(__x86_64__)

// The same loops, inlined and vectorised anew for each instruction set.
THINMAPS_AVX2 Status EncodeAvx2(const CodecSpec& spec, const ConstRows& rows,
                                std::span<uint8_t> payload, size_t* written) {
  return Encode<Bmi2Bits>(spec, rows, payload, written);
}
THINMAPS_AVX2 Status DecodeAvx2(const CodecSpec& spec, std::span<const uint8_t> payload,
                                int32_t column, int32_t columns, const MutableRows& rows) {
  return Decode<Bmi2Bits>(spec, payload, column, columns, rows);
}

#endif

}  // namespace

#if defined(__x86_64__)
THINMAPS_AVX512 Status mixed_width::EncodeRunsAvx512(const CodecSpec& spec, const ConstRows& rows,
                                                     std::span<uint8_t> payload, size_t* written) {
  return Encode<Avx512Bits>(spec, rows, payload, written);
}
THINMAPS_AVX512 Status mixed_width::DecodeRunsAvx512(const CodecSpec& spec,
                                                     std::span<const uint8_t> payload,
                                                     int32_t column, int32_t columns,
                                                     const MutableRows& rows) {
  return Decode<Avx512Bits>(spec, payload, column, columns, rows);
}
#endif

extern const CodecKernel kMixedWidth{"mixed_width", Isa::kPortable, Encode<PortableBits>,
                                     Decode<PortableBits>};
#if defined(__x86_64__)
extern const CodecKernel kMixedWidthAvx2{"mixed_width", Isa::kAvx2, EncodeAvx2, DecodeAvx2};
#endif

}  // namespace thinmaps
