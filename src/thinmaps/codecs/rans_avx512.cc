// SPDX-License-Identifier: Apache-2.0
// Native twin of rans.py, which specifies the payload: decoding in AVX-512 with VBMI.
//
// Up to 64 states advance at once, in registers of 16. What depends on an element only (its model,
// bucket, token and plain bits) is looked up in bytes, 64 at a time: a table of 256 bytes is four
// registers, which beats any gather. Turns are ordered so that bytes become 32 bits, and the
// reverse, by unpacking and packing alone.
#include "rans.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_AVX512_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,bmi,bmi2,popcnt"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_INLINE [[gnu::target(THINMAPS_AVX512_TARGET), gnu::always_inline]] inline

namespace thinmaps {
namespace rans {
namespace {

constexpr size_t kRegisters = 4;  // that the lanes of a step fill as 32-bit numbers
constexpr size_t kRegisterLanes = 16;
constexpr ptrdiff_t kStepWordBytes = kLanes * kWordBytes;  // the most that a step takes or reads

// The lanes of a step that belong to register r.
constexpr uint64_t RegisterLanes(size_t r) { return uint64_t{0x000F000F000F000F} << (4 * r); }

uint64_t LowLanes(size_t count) { return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0}; }

// Entries of a table whose first `kUsed` ones matter.
template <size_t kUsed>
THINMAPS_AVX512_INLINE __m512i Lookup(const uint8_t* table, __m512i entry) {
  const __m512i first = _mm512_loadu_si512(table);
  if constexpr (kUsed == 64) return _mm512_permutexvar_epi8(entry, first);
  const __m512i second = _mm512_loadu_si512(table + 64);
  const __m512i low = _mm512_permutex2var_epi8(first, entry, second);
  if constexpr (kUsed == 128) return low;
  const __m512i third = _mm512_loadu_si512(table + 128);
  const __m512i fourth = _mm512_loadu_si512(table + 192);
  const __m512i high = _mm512_permutex2var_epi8(third, entry, fourth);
  return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(entry), high);
}

// Bytes, or 16 bits of which these are the low and the high byte, as 32 bits in four registers.
THINMAPS_AVX512_INLINE void Widen(__m512i low, __m512i high, __m512i* wide) {
  const __m512i none = _mm512_setzero_si512();
  const __m512i first = _mm512_unpacklo_epi8(low, high);
  const __m512i second = _mm512_unpackhi_epi8(low, high);
  wide[0] = _mm512_unpacklo_epi16(first, none);
  wide[1] = _mm512_unpackhi_epi16(first, none);
  wide[2] = _mm512_unpacklo_epi16(second, none);
  wide[3] = _mm512_unpackhi_epi16(second, none);
}

// The reverse, of numbers below 256.
THINMAPS_AVX512_INLINE __m512i Narrow(const __m512i* wide) {
  return _mm512_packus_epi16(_mm512_packus_epi32(wide[0], wide[1]),
                             _mm512_packus_epi32(wide[2], wide[3]));
}

// A table of 16 tokens in every 128 bits, for shuffles.
THINMAPS_AVX512_INLINE __m512i TokenTable(const uint8_t* tokens) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tokens)));
}

// What all steps of a unit share.
struct Unit {
  Tables tables;
  bool contexts;  // the prediction chooses models
  bool plain;     // some token has plain bits
};

// Ranks and frequencies of the tokens that the slots of four registers name, and the tokens.
template <size_t kUsed>
THINMAPS_AVX512_INLINE __m512i Tokens(const Tables& tables, const __m512i* slots, __m512i model,
                                      __m512i* ranks, __m512i* frequencies) {
  const __m512i byte = _mm512_set1_epi16(255);
  const __m512i first = _mm512_packus_epi32(slots[0], slots[1]);
  const __m512i second = _mm512_packus_epi32(slots[2], slots[3]);
  const __m512i low =
      _mm512_packus_epi16(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte));
  const __m512i bucket =
      _mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8));
  const __m512i entry = _mm512_or_si512(model, bucket);
  const __mmask64 beyond = _mm512_cmpge_epu8_mask(low, Lookup<kUsed>(tables.divider, entry));
  const __m512i token = _mm512_mask_mov_epi8(bucket, beyond, Lookup<kUsed>(tables.alias, entry));
  const __m512i offset_low = _mm512_maskz_mov_epi8(beyond, Lookup<kUsed>(tables.offset_low, entry));
  const __m512i offset_high =
      _mm512_maskz_mov_epi8(beyond, Lookup<kUsed>(tables.offset_high, entry));
  const __m512i none = _mm512_setzero_si512();
  const __m512i rank_first = _mm512_add_epi16(_mm512_unpacklo_epi8(low, none),
                                              _mm512_unpacklo_epi8(offset_low, offset_high));
  const __m512i rank_second = _mm512_add_epi16(_mm512_unpackhi_epi8(low, none),
                                               _mm512_unpackhi_epi8(offset_low, offset_high));
  ranks[0] = _mm512_unpacklo_epi16(rank_first, none);
  ranks[1] = _mm512_unpackhi_epi16(rank_first, none);
  ranks[2] = _mm512_unpacklo_epi16(rank_second, none);
  ranks[3] = _mm512_unpackhi_epi16(rank_second, none);
  const __m512i own = _mm512_or_si512(model, token);
  Widen(Lookup<kUsed>(tables.frequency_low, own), Lookup<kUsed>(tables.frequency_high, own),
        frequencies);
  return token;
}

// Takes a symbol from each active state of the registers part * kVectors and following, which are
// states[0] and following. At least kVectors * 32 bytes can be read at `next`.
template <size_t kVectors, size_t kUsed>
THINMAPS_AVX512_INLINE __m512i TakePart(const Unit& unit, size_t part, __m512i model,
                                        const __mmask16* active, __m512i* states,
                                        const uint8_t** next) {
  const __m512i slot_mask = _mm512_set1_epi32(4095);
  const size_t begin = part * kVectors;
  __m512i slots[kRegisters];
  __m512i ranks[kRegisters];
  __m512i frequencies[kRegisters];
  for (__m512i& slot : slots) slot = _mm512_setzero_si512();
  for (size_t i = 0; i < kVectors; ++i) {
    slots[begin + i] = _mm512_and_si512(states[i], slot_mask);
  }
  const __m512i token = Tokens<kUsed>(unit.tables, slots, model, ranks, frequencies);
  for (size_t i = 0; i < kVectors; ++i) {
    const __m512i share =
        _mm512_mullo_epi32(_mm512_srli_epi32(states[i], 12), frequencies[begin + i]);
    states[i] = _mm512_mask_add_epi32(states[i], active[begin + i], share, ranks[begin + i]);
  }
  __m512i symbol = _mm512_shuffle_epi8(TokenTable(unit.tables.token_base), token);
  if (unit.plain) {
    const __m512i none = _mm512_setzero_si512();
    __m512i bits[kRegisters];
    Widen(_mm512_shuffle_epi8(TokenTable(unit.tables.token_bits), token), none, bits);
    for (__m512i& rest : slots) rest = none;
    for (size_t i = 0; i < kVectors; ++i) {
      const __m512i count = bits[begin + i];
      const __m512i above = _mm512_sllv_epi32(_mm512_set1_epi32(-1), count);
      slots[begin + i] = _mm512_andnot_si512(above, states[i]);
      states[i] = _mm512_mask_srlv_epi32(states[i], active[begin + i], states[i], count);
    }
    symbol = _mm512_add_epi8(symbol, Narrow(slots));
  }
  const uint8_t* word = *next;
  for (size_t i = 0; i < kVectors; ++i) {
    const __mmask16 empty = _mm512_mask_cmplt_epu32_mask(
        active[begin + i], states[i], _mm512_set1_epi32(static_cast<int>(kLeastState)));
    const __m512i words =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(word)));
    const __m512i shifted = _mm512_slli_epi32(states[i], 16);
    states[i] =
        _mm512_mask_or_epi32(states[i], empty, shifted, _mm512_maskz_expand_epi32(empty, words));
    word += kWordBytes * static_cast<size_t>(std::popcount(static_cast<uint16_t>(empty)));
  }
  *next = word;
  return symbol;
}

// All pixels of a step, each at its lanes. A lane that is not a pixel's is not touched.
THINMAPS_AVX512_INLINE __m512i LoadPixels(const Order& order, const Step& step,
                                          const uint8_t* first, ptrdiff_t strip_bytes) {
  const __mmask64 lanes = LowLanes(step.channels);
  __m512i bytes = _mm512_maskz_loadu_epi8(lanes, first);
  for (size_t strip = 1; strip < step.pixels; ++strip) {
    const size_t lane = strip * order.channels;
    const uint8_t* pixel = first + static_cast<ptrdiff_t>(strip) * strip_bytes;
    bytes = _mm512_mask_loadu_epi8(bytes, lanes << lane, pixel - lane);
  }
  return bytes;
}

THINMAPS_AVX512_INLINE void StorePixels(const Order& order, const Step& step, __m512i bytes,
                                        uint8_t* first, ptrdiff_t strip_bytes) {
  const __mmask64 lanes = LowLanes(step.channels);
  if (step.channels == kLanes) {
    _mm512_storeu_si512(first, bytes);
    return;
  }
  for (size_t strip = 0; strip < step.pixels; ++strip) {
    const size_t lane = strip * order.channels;
    uint8_t* pixel = first + static_cast<ptrdiff_t>(strip) * strip_bytes;
    _mm512_mask_storeu_epi8(pixel - lane, lanes << lane, bytes);
  }
}

// The models of a step, multiplied by 16, from the bytes of its neighbours.
THINMAPS_AVX512_INLINE __m512i Models(const Tables& tables, size_t channel, __m512i left,
                                      __m512i upper) {
  const __m512i prediction = _mm512_avg_epu8(left, upper);
  __m512i model = _mm512_loadu_si512(tables.model[0] + channel);
  for (size_t level = 1; level < kLevels; ++level) {
    const __m512i threshold = _mm512_loadu_si512(tables.threshold[level - 1] + channel);
    model = _mm512_mask_loadu_epi8(model, _mm512_cmpge_epu8_mask(prediction, threshold),
                                   tables.model[level] + channel);
  }
  return model;
}

// A unit's rows, and what is known while one of them is decoded.
template <size_t kVectors>
struct Row {
  const MutableRows& rows;
  ptrdiff_t strip_bytes;
  size_t row;
  __m512i states[kVectors];
  const uint8_t* next;
  __m512i before;  // bytes of the last step
  __mmask64 bad;   // lanes with a symbol that no byte has
};

template <size_t kVectors>
THINMAPS_AVX512_INLINE __m512i ModelsOf(const Unit& unit, const Order& order, const Step& step,
                                        ptrdiff_t at, const Row<kVectors>& row) {
  const Tables& tables = unit.tables;
  if (!unit.contexts) return _mm512_loadu_si512(tables.model[0] + step.channel);
  __m512i left = row.before;
  if (step.column == 0) {
    left = _mm512_set1_epi8(static_cast<char>(tables.steps.zero));
  } else if (order.channels > kLanes) {
    left = LoadPixels(order, step, row.rows.rows[row.row] + at - row.rows.pixel_bytes,
                      row.strip_bytes);
  }
  if (row.row == 0) return Models(tables, step.channel, left, left);
  const __m512i upper = LoadPixels(order, step, row.rows.rows[row.row - 1] + at, row.strip_bytes);
  return Models(tables, step.channel, step.column == 0 ? upper : left, upper);
}

// Decodes a step. Words for a whole one are left.
template <size_t kVectors, size_t kUsed>
THINMAPS_AVX512_INLINE void TakeStep(const Unit& unit, const Order& order, const Step& step,
                                     Row<kVectors>* row) {
  const Tables& tables = unit.tables;
  const auto at = static_cast<ptrdiff_t>(step.column) * row->rows.pixel_bytes +
                  static_cast<ptrdiff_t>(step.channel);
  const __m512i model = ModelsOf(unit, order, step, at, *row);
  const uint64_t lanes = LowLanes(step.lanes());
  __mmask16 active[kRegisters];
  for (size_t r = 0; r < kRegisters; ++r) {
    active[r] = static_cast<__mmask16>(_pext_u64(lanes, RegisterLanes(r)));
  }
  __m512i bytes = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (size_t part = 0; part < kRegisters / kVectors; ++part) {
    uint64_t own = 0;
    for (size_t i = 0; i < kVectors; ++i) own |= RegisterLanes(part * kVectors + i);
    const __m512i symbols =
        TakePart<kVectors, kUsed>(unit, part, model, active, row->states, &row->next);
    bytes = _mm512_mask_mov_epi8(bytes, own, symbols);
  }
  if (!tables.steps.none) {
    const auto load = [&step](const uint8_t* table)
                          __attribute__((target("avx512f,avx512bw"), always_inline)) {
                            return _mm512_loadu_si512(table + step.channel);
                          };
    const StepLanes step_lanes = LanesOf(tables.steps, load);
    row->bad |= _mm512_mask_cmpgt_epu8_mask(lanes, bytes, step_lanes.largest);
    bytes = BytesAvx512(step_lanes, bytes);
  }
  StorePixels(order, step, bytes, row->rows.rows[row->row] + at, row->strip_bytes);
  row->before = bytes;
}

// Decodes a row's steps while words for a whole step are left; the rest in plain loops.
template <size_t kVectors, size_t kUsed>
THINMAPS_AVX512 void DecodeRow(const Unit& unit, const Order& order, size_t row_index,
                               const MutableRows& rows, Decoder* decoder) {
  Row<kVectors> row{rows,
                    static_cast<ptrdiff_t>(order.strip_columns) * rows.pixel_bytes,
                    row_index,
                    {},
                    decoder->next,
                    _mm512_setzero_si512(),
                    0};
  for (size_t i = 0; i < kVectors; ++i) {
    row.states[i] = _mm512_loadu_si512(decoder->states + i * kRegisterLanes);
  }
  size_t column = 0;
  size_t channel = 0;
  while (column < order.strip_columns && decoder->end - row.next >= kStepWordBytes) {
    TakeStep<kVectors, kUsed>(unit, order, StepAt(order, row_index, column, channel), &row);
    channel += kLanes;
    if (channel < order.channels) continue;
    channel = 0;
    ++column;
  }
  for (size_t i = 0; i < kVectors; ++i) {
    _mm512_storeu_si512(decoder->states + i * kRegisterLanes, row.states[i]);
  }
  decoder->next = row.next;
  decoder->good &= row.bad == 0;
  for (; column < order.strip_columns; ++column, channel = 0) {
    for (; channel < order.channels && decoder->good; channel += kLanes) {
      DecodeStep(unit.tables, order, StepAt(order, row_index, column, channel), rows, decoder);
    }
  }
}

using RowDecoder = void (*)(const Unit&, const Order&, size_t, const MutableRows&, Decoder*);

template <size_t kVectors>
RowDecoder DecoderFor(size_t models) {
  if (models <= 4) return DecodeRow<kVectors, 64>;
  return models <= 8 ? DecodeRow<kVectors, 128> : DecodeRow<kVectors, 256>;
}

Status DecodeAvx512(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
                    int32_t columns, const MutableRows& rows) {
  Unit unit;
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  if (!ReadTables(spec, &unit.tables)) return Status::kBadArgument;
  const size_t elements = Elements(spec, rows.count);
  const size_t count = StateCount(elements, unit.tables.state_elements);
  const size_t plain = PlainBytes(elements, unit.tables.plain_bits);
  if (count < kRegisterLanes || payload.size() >= plain) {
    return Decode(spec, payload, column, columns, rows);
  }
  Decoder decoder;
  if (!Begin(payload, count, &decoder)) return Status::kCorruptPayload;
  unit.contexts = spec.integers[2] != 0;
  unit.plain = std::any_of(unit.tables.token_bits, unit.tables.token_bits + kTokens,
                           [](uint8_t bits) { return bits != 0; });
  const size_t models = unit.tables.models;
  const RowDecoder decode = count == 64   ? DecoderFor<4>(models)
                            : count == 32 ? DecoderFor<2>(models)
                                          : DecoderFor<1>(models);
  const Order order(spec);
  for (int32_t row = 0; row < rows.count && decoder.good; ++row) {
    decode(unit, order, static_cast<size_t>(row), rows, &decoder);
  }
  return AtEnd(decoder) ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace
}  // namespace rans

extern const CodecKernel kRansAvx512{"rans", Isa::kAvx512, rans::Encode, rans::DecodeAvx512};

}  // namespace thinmaps

#endif
