// SPDX-License-Identifier: Apache-2.0
// Native twin of steps.py, which specifies the arithmetic: bytes of a map to symbols and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "codec.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_STEPS_AVX512 [[gnu::target("avx512f,avx512bw"), gnu::always_inline]] inline
#endif

namespace thinmaps {

// Tables of Steps.native_tables: a byte for every channel, from any of which 64 may be read.
struct Steps {
  uint8_t zero = 0;
  bool none = true;  // a symbol is its byte, the zero point is 0
  const uint8_t* multiplier_low = nullptr;
  const uint8_t* multiplier_high = nullptr;
  const uint8_t* offset_low = nullptr;
  const uint8_t* offset_high = nullptr;
  const uint8_t* step_low = nullptr;
  const uint8_t* step_high = nullptr;
  const uint8_t* fold = nullptr;
  const uint8_t* largest = nullptr;
};

constexpr size_t kStepsLookahead = 64;

// Returns whether the tables have the size that the map's channels ask for.
inline bool ReadSteps(const CodecSpec& spec, Steps* steps) {
  steps->zero = static_cast<uint8_t>(spec.zero_point);
  steps->none = spec.tables.empty();
  if (steps->none) return spec.zero_point == 0;
  const size_t length = static_cast<size_t>(spec.channels) + kStepsLookahead;
  if (spec.tables.size() != 8 * length) return false;
  const uint8_t* row = spec.tables.data();
  for (const uint8_t** table :
       {&steps->multiplier_low, &steps->multiplier_high, &steps->offset_low, &steps->offset_high,
        &steps->step_low, &steps->step_high, &steps->fold, &steps->largest}) {
    *table = row;
    row += length;
  }
  return true;
}

// Symbols of `count` <= 64 bytes, the first of which belongs to channel `channel`. Nothing overlaps
// and nothing branches, so that the compiler can make vectors of it.
inline void ToSymbols(const Steps& steps, const uint8_t* __restrict in, size_t channel,
                      size_t count, uint8_t* __restrict symbols) {
  if (steps.none) {
    std::copy_n(in, count, symbols);
    return;
  }
  const int32_t zero = steps.zero;
  const int32_t far_is_above = zero < 128;
  const uint8_t* __restrict multiplier_low = steps.multiplier_low + channel;
  const uint8_t* __restrict multiplier_high = steps.multiplier_high + channel;
  const uint8_t* __restrict offset_low = steps.offset_low + channel;
  const uint8_t* __restrict offset_high = steps.offset_high + channel;
  const uint8_t* __restrict folds = steps.fold + channel;
  const uint8_t* __restrict largest = steps.largest + channel;
  for (size_t i = 0; i < count; ++i) {
    const int32_t multiplier = multiplier_low[i] | multiplier_high[i] << 8;
    const int32_t offset = offset_low[i] | offset_high[i] << 8;
    const int32_t fold = folds[i];
    const int32_t difference = in[i] - zero;
    const int32_t above = difference > 0;
    const int32_t magnitude = difference > 0 ? difference : -difference;
    const int32_t reached = (magnitude * 16 + offset) * multiplier >> 16;
    const int32_t bound = above == far_is_above ? 255 : fold;
    const int32_t distance = reached < bound ? reached : bound;
    const int32_t alternating = distance > 0 ? 2 * distance - above : 0;
    const int32_t beyond = distance + fold;
    const int32_t symbol = alternating < beyond ? alternating : beyond;
    symbols[i] = static_cast<uint8_t>(symbol < largest[i] ? symbol : largest[i]);
  }
}

// The reverse; returns whether every symbol is one that the encoder writes.
inline bool ToBytes(const Steps& steps, const uint8_t* __restrict symbols, size_t channel,
                    size_t count, uint8_t* __restrict out) {
  if (steps.none) {
    std::copy_n(symbols, count, out);
    return true;
  }
  const int32_t zero = steps.zero;
  const int32_t far_is_above = zero < 128;
  const uint8_t* __restrict step_low = steps.step_low + channel;
  const uint8_t* __restrict step_high = steps.step_high + channel;
  const uint8_t* __restrict folds = steps.fold + channel;
  const uint8_t* __restrict largest = steps.largest + channel;
  int32_t wrong = 0;
  for (size_t i = 0; i < count; ++i) {
    const int32_t step = step_low[i] | step_high[i] << 8;
    const int32_t fold = folds[i];
    const int32_t symbol = symbols[i];
    wrong |= static_cast<int32_t>(symbol > largest[i]);
    const int32_t alternating = (symbol + 1) >> 1;
    const int32_t distance = alternating > symbol - fold ? alternating : symbol - fold;
    const int32_t levels = (distance * step + 64) >> 7;
    const int32_t magnitude = levels < 255 ? levels : 255;
    const int32_t above = symbol > 2 * fold ? far_is_above : symbol & 1;
    const int32_t value = zero + (above != 0 ? magnitude : -magnitude);
    const int32_t not_below = value > 0 ? value : 0;
    out[i] = static_cast<uint8_t>(not_below < 255 ? not_below : 255);
  }
  return wrong == 0;
}

#if defined(__x86_64__)

// The same on 64 bytes in a register. Bytes widen to 16 bits by interleaving with zero bytes within
// 128 bits, and so do the tables' low bytes with their high ones.
struct StepLanes {
  __m512i zero, multiplier[2], offset[2], step[2], fold, largest;
  __mmask64 far_is_above;
  bool from_zero;  // the zero point is 0, and with it every fold
};

// `Load` says which 64 channels the lanes have: it takes a table and returns 64 of its bytes.
template <typename Load>
THINMAPS_STEPS_AVX512 StepLanes LanesOf(const Steps& steps, Load load) {
  StepLanes lanes;
  lanes.zero = _mm512_set1_epi8(static_cast<char>(steps.zero));
  lanes.far_is_above = steps.zero < 128 ? ~uint64_t{0} : 0;
  lanes.from_zero = steps.zero == 0;
  const auto widen = [&load](const uint8_t* low, const uint8_t* high, __m512i* halves)
                         __attribute__((target("avx512f,avx512bw"), always_inline)) {
                           halves[0] = _mm512_unpacklo_epi8(load(low), load(high));
                           halves[1] = _mm512_unpackhi_epi8(load(low), load(high));
                         };
  widen(steps.multiplier_low, steps.multiplier_high, lanes.multiplier);
  widen(steps.offset_low, steps.offset_high, lanes.offset);
  widen(steps.step_low, steps.step_high, lanes.step);
  lanes.fold = load(steps.fold);
  lanes.largest = load(steps.largest);
  return lanes;
}

// Distances in steps of differences in bytes.
THINMAPS_STEPS_AVX512 __m512i DistancesAvx512(const StepLanes& lanes, __m512i difference) {
  const __m512i none = _mm512_setzero_si512();
  const __m512i low = _mm512_mulhi_epu16(
      _mm512_add_epi16(_mm512_slli_epi16(_mm512_unpacklo_epi8(difference, none), 4),
                       lanes.offset[0]),
      lanes.multiplier[0]);
  const __m512i high = _mm512_mulhi_epu16(
      _mm512_add_epi16(_mm512_slli_epi16(_mm512_unpackhi_epi8(difference, none), 4),
                       lanes.offset[1]),
      lanes.multiplier[1]);
  return _mm512_packus_epi16(low, high);
}

// Differences in bytes, up to 255, of distances in steps.
THINMAPS_STEPS_AVX512 __m512i DifferencesAvx512(const StepLanes& lanes, __m512i distance) {
  const __m512i none = _mm512_setzero_si512();
  const __m512i half = _mm512_set1_epi16(64);
  const __m512i low = _mm512_srli_epi16(
      _mm512_add_epi16(_mm512_mullo_epi16(_mm512_unpacklo_epi8(distance, none), lanes.step[0]),
                       half),
      7);
  const __m512i high = _mm512_srli_epi16(
      _mm512_add_epi16(_mm512_mullo_epi16(_mm512_unpackhi_epi8(distance, none), lanes.step[1]),
                       half),
      7);
  return _mm512_packus_epi16(low, high);
}

THINMAPS_STEPS_AVX512 __m512i SymbolsAvx512(const StepLanes& lanes, __m512i x) {
  if (lanes.from_zero) return _mm512_min_epu8(DistancesAvx512(lanes, x), lanes.largest);
  const __mmask64 above = _mm512_cmpgt_epu8_mask(x, lanes.zero);
  __m512i distance = DistancesAvx512(
      lanes, _mm512_or_si512(_mm512_subs_epu8(x, lanes.zero), _mm512_subs_epu8(lanes.zero, x)));
  distance = _mm512_mask_min_epu8(distance, above ^ lanes.far_is_above, distance, lanes.fold);
  // Saturation is harmless: what passes 255 passes distance + fold too.
  const __m512i one_less = _mm512_mask_subs_epu8(distance, above, distance, _mm512_set1_epi8(1));
  const __m512i symbol =
      _mm512_min_epu8(_mm512_adds_epu8(one_less, distance), _mm512_adds_epu8(distance, lanes.fold));
  return _mm512_min_epu8(symbol, lanes.largest);
}

THINMAPS_STEPS_AVX512 __m512i BytesAvx512(const StepLanes& lanes, __m512i symbols) {
  if (lanes.from_zero) return DifferencesAvx512(lanes, symbols);
  const __m512i magnitude =
      DifferencesAvx512(lanes, _mm512_max_epu8(_mm512_avg_epu8(symbols, _mm512_setzero_si512()),
                                               _mm512_subs_epu8(symbols, lanes.fold)));
  const __mmask64 odd = _mm512_test_epi8_mask(symbols, _mm512_set1_epi8(1));
  const __mmask64 beyond =
      _mm512_cmpgt_epu8_mask(symbols, _mm512_adds_epu8(lanes.fold, lanes.fold));
  const __mmask64 above = (beyond & lanes.far_is_above) | (odd & ~beyond);
  return _mm512_mask_adds_epu8(_mm512_subs_epu8(lanes.zero, magnitude), above, lanes.zero,
                               magnitude);
}

#endif

}  // namespace thinmaps
