// SPDX-License-Identifier: Apache-2.0
// The arithmetic of levels.h on 64 elements in 16-bit lanes, from tables of bytes.
#pragma once

#if defined(__x86_64__)
#include "codec.h"
#include "intrinsics.h"
#define THINMAPS_LEVELS_AVX512 [[gnu::target("avx512f,avx512bw"), gnu::always_inline]] inline

namespace thinmaps {

// Levels.byte_tables of levels.py for 64 elements from `channel` on. Bytes widen to 16 bits by
// interleaving within 128 bits.
struct ByteTables {
  const uint8_t* tables = nullptr;
  size_t length = 0;

  THINMAPS_LEVELS_AVX512 __m512i Bytes(size_t row, size_t channel) const {
    return _mm512_loadu_si512(tables + row * length + channel);
  }
  THINMAPS_LEVELS_AVX512 void Words(size_t low, size_t high, size_t channel,
                                    __m512i* halves) const {
    halves[0] = _mm512_unpacklo_epi8(Bytes(low, channel), Bytes(high, channel));
    halves[1] = _mm512_unpackhi_epi8(Bytes(low, channel), Bytes(high, channel));
  }
};

// Returns whether the tables have the size that the map's channels ask for.
inline bool ReadByteTables(const CodecSpec& spec, ByteTables* rows) {
  constexpr size_t kRows = 9;
  rows->tables = spec.tables.data();
  rows->length = static_cast<size_t>(spec.channels) + 64;
  return spec.tables.size() == kRows * rows->length;
}

THINMAPS_LEVELS_AVX512 void Widen(__m512i bytes, __m512i* halves) {
  halves[0] = _mm512_unpacklo_epi8(bytes, _mm512_setzero_si512());
  halves[1] = _mm512_unpackhi_epi8(bytes, _mm512_setzero_si512());
}

// The code is zero_code + ((x - z) * scale + 2**14 >> 15), which is what vpmulhrsw computes of 16
// bits. Only a scale of 2**15 has more; 2**15 - 1 rounds all differences up to 255 to the same.
struct Quantiser {
  __m512i zero_point, scale[2], zero_code[2], largest;

  THINMAPS_LEVELS_AVX512 Quantiser(const CodecSpec& spec, const ByteTables& rows, size_t channel)
      : zero_point(_mm512_set1_epi16(static_cast<short>(spec.zero_point))),
        largest(rows.Bytes(3, channel)) {
    rows.Words(0, 1, channel, scale);
    Widen(rows.Bytes(2, channel), zero_code);
  }

  THINMAPS_LEVELS_AVX512 __m512i Codes(__m512i x) const {
    __m512i half[2];
    Widen(x, half);
    for (size_t i = 0; i < 2; ++i) {
      const __m512i steps = _mm512_mulhrs_epi16(_mm512_sub_epi16(half[i], zero_point), scale[i]);
      half[i] = _mm512_add_epi16(steps, zero_code[i]);
    }
    return _mm512_min_epu8(_mm512_packus_epi16(half[0], half[1]), largest);
  }
};

// The byte is z + (code - zero_code) * whole + ((code - zero_code) * fraction + 2**14 >> 15) with
// step = whole * 2**15 + fraction. Of a code that an encoder writes, that is less than 2**15.
struct Restorer {
  __m512i zero_point, zero_code[2], whole[2], fraction[2], low, range;
  __mmask64 wrong = 0;  // codes that no encoder writes

  THINMAPS_LEVELS_AVX512 Restorer(const CodecSpec& spec, const ByteTables& rows, size_t channel)
      : zero_point(_mm512_set1_epi16(static_cast<short>(spec.zero_point))),
        low(rows.Bytes(7, channel)),
        range(rows.Bytes(8, channel)) {
    Widen(rows.Bytes(2, channel), zero_code);
    Widen(rows.Bytes(4, channel), whole);
    rows.Words(5, 6, channel, fraction);
  }

  THINMAPS_LEVELS_AVX512 __m512i Bytes(__m512i codes, __mmask64 used) {
    wrong |= _mm512_mask_cmpgt_epu8_mask(used, _mm512_sub_epi8(codes, low), range);
    __m512i half[2];
    Widen(codes, half);
    for (size_t i = 0; i < 2; ++i) {
      const __m512i steps = _mm512_sub_epi16(half[i], zero_code[i]);
      half[i] = _mm512_add_epi16(_mm512_add_epi16(_mm512_mullo_epi16(steps, whole[i]), zero_point),
                                 _mm512_mulhrs_epi16(steps, fraction[i]));
    }
    return _mm512_packus_epi16(half[0], half[1]);
  }
};

}  // namespace thinmaps

#endif
