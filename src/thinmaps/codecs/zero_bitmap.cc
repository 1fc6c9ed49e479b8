// SPDX-License-Identifier: Apache-2.0
// Native twin of zero_bitmap.py, which specifies the payload.
//
// A unit is a sequence of runs (contiguous elements), a run a sequence of chunks of up to 64
// elements: one word of presence bits each. Only the work on a run differs by instruction set.
// Each works on a copy of the state, which no store of a byte can reach, so that it stays in
// registers.
#include "zero_bitmap.h"

#include <algorithm>
#include <bit>

#include "steps.h"

#if defined(__x86_64__)
#define THINMAPS_AVX2 [[gnu::target("avx2,bmi,bmi2,popcnt")]]
#define THINMAPS_AVX512 [[gnu::target("avx512f,avx512bw,avx512vbmi2,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps {
namespace {

using namespace zero_bitmap;

constexpr uint64_t kOnes = 0x0101010101010101;

// A value is stored always and kept only if it is not zero, which costs no branch.
void EncodeChunk(const uint8_t* in, size_t count, EncodeState* state) {
  const uint8_t zero = state->zero;
  uint64_t present = 0;
  uint8_t* value = state->value;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t element = in[i];
    const bool kept = element != zero;
    *value = element;
    value += kept;
    present |= uint64_t{kept} << i;
  }
  state->value = value;
  state->presence.Append(present, count);
}

void DecodeChunk(uint8_t* out, size_t count, DecodeState* state) {
  uint64_t left = state->presence.Take(count);
  const uint8_t zero = state->zero;
  bool good = true;
  std::fill_n(out, count, zero);
  for (const uint8_t value : state->TakeValues(static_cast<size_t>(std::popcount(left)))) {
    out[std::countr_zero(left)] = value;
    left &= left - 1;
    good &= value != zero;
  }
  state->good &= good;
}

void EncodeRun(const uint8_t* in, size_t bytes, EncodeState* state) {
  for (size_t i = 0; i < bytes; i += kChunk)
    EncodeChunk(in + i, std::min(kChunk, bytes - i), state);
}

void DecodeRun(uint8_t* out, size_t bytes, DecodeState* state) {
  for (size_t i = 0; i < bytes; i += kChunk) {
    DecodeChunk(out + i, std::min(kChunk, bytes - i), state);
  }
}

#if defined(__x86_64__)

// One bit for each of the 64 elements that equals zero.
THINMAPS_AVX2 inline uint64_t ZerosAvx2(const uint8_t* elements, uint8_t zero) {
  const __m256i zeros = _mm256_set1_epi8(static_cast<char>(zero));
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements + 32));
  const int low_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(low, zeros));
  const int high_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, zeros));
  return uint64_t{static_cast<uint32_t>(high_bits)} << 32 | static_cast<uint32_t>(low_bits);
}

// Presence bits 0 to 7, each spread to a byte: what pext keeps and pdep fills.
THINMAPS_AVX2 inline uint64_t SpreadAvx2(uint64_t present) {
  const uint64_t ones = _pdep_u64(present, kOnes);
  return (ones << 8) - ones;
}

THINMAPS_AVX2 void EncodeRunAvx2(const uint8_t* in, size_t bytes, EncodeState* state) {
  EncodeState run = *state;
  for (; bytes >= kChunk; bytes -= kChunk, in += kChunk) {
    const uint64_t present = ~ZerosAvx2(in, run.zero);
    for (size_t i = 0; i < kChunk; i += 8) {
      // At most i values precede these, so all eight bytes lie in the room for the chunk.
      Store64(_pext_u64(Load64(in + i), SpreadAvx2(present >> i)), run.value);
      run.value += std::popcount(present >> i & 0xFF);
    }
    run.presence.AppendOver(present, kChunk);
  }
  *state = run;
  EncodeRun(in, bytes, state);
}

THINMAPS_AVX2 void DecodeRunAvx2(uint8_t* out, size_t bytes, DecodeState* state) {
  DecodeState run = *state;
  const uint64_t zeros = kOnes * run.zero;
  uint64_t bad = 0;
  // Inside, eight values can be read at a time, though fewer may be this chunk's.
  for (; bytes >= kChunk && run.IsInside(); bytes -= kChunk, out += kChunk) {
    const uint64_t present = run.presence.TakeInside(kChunk);
    const uint8_t* value = run.values.data();
    for (size_t i = 0; i < kChunk; i += 8) {
      const uint64_t kept = SpreadAvx2(present >> i);
      const uint64_t x = _pdep_u64(Load64(value), kept);
      const uint64_t differs = (x ^ zeros) | ~kept;
      bad |= (differs - kOnes) & ~differs & kOnes << 7;  // some byte of `differs` is 0
      Store64(x | (zeros & ~kept), out + i);
      value += std::popcount(present >> i & 0xFF);
    }
    run.values = run.values.subspan(static_cast<size_t>(std::popcount(present)));
  }
  run.good &= bad == 0;
  *state = run;
  DecodeRun(out, bytes, state);
}

// Compresses into a register: the form that writes to memory is several times slower.
THINMAPS_AVX512 void EncodeRunAvx512(const uint8_t* in, size_t bytes, EncodeState* state) {
  EncodeState run = *state;
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(run.zero));
  for (; bytes >= kChunk; bytes -= kChunk, in += kChunk) {
    const __m512i x = _mm512_loadu_si512(in);
    const __mmask64 present = _mm512_cmpneq_epi8_mask(x, zero);
    // Whole, because there is room for all elements of the chunk.
    _mm512_storeu_si512(run.value, _mm512_maskz_compress_epi8(present, x));
    run.value += std::popcount(uint64_t{present});
    run.presence.AppendOver(present, kChunk);
  }
  if (bytes > 0) {
    const __mmask64 chunk = LowBits(bytes);
    const __m512i x = _mm512_maskz_loadu_epi8(chunk, in);
    const __mmask64 present = _mm512_mask_cmpneq_epi8_mask(chunk, x, zero);
    _mm512_mask_storeu_epi8(run.value, chunk, _mm512_maskz_compress_epi8(present, x));
    run.value += std::popcount(uint64_t{present});
    run.presence.Append(present, bytes);
  }
  *state = run;
}

THINMAPS_AVX512 void DecodeRunAvx512(uint8_t* out, size_t bytes, DecodeState* state) {
  DecodeState run = *state;
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(run.zero));
  __mmask64 bad = 0;
  // Whole bytes of presence bits go straight into mask registers. While a chunk is left, its eight
  // bytes of them are, too.
  if (run.presence.position % 8 == 0) {
    const uint8_t* presence = run.presence.bitmap.data() + run.presence.position / 8;
    const uint8_t* value = run.values.data();
    const uint8_t* values_end = value + run.values.size();
    for (; bytes >= kChunk && values_end - value >= ptrdiff_t{kChunk}; bytes -= kChunk) {
      const uint64_t present = Load64(presence);
      const __m512i values = _mm512_loadu_si512(value);
      const __m512i x = _mm512_mask_expand_epi8(zero, present, values);
      _mm512_storeu_si512(out, x);
      bad = _kor_mask64(bad, _mm512_mask_cmpeq_epi8_mask(present, x, zero));
      value += std::popcount(present);
      presence += kChunk / 8;
      out += kChunk;
    }
    run.presence.position = static_cast<size_t>(presence - run.presence.bitmap.data()) * 8;
    run.values = run.values.last(static_cast<size_t>(values_end - value));
  }
  while (bytes > 0) {
    const size_t count = std::min(kChunk, bytes);
    const __mmask64 present = run.presence.Take(count);
    const auto taken = run.TakeValues(static_cast<size_t>(std::popcount(uint64_t{present})));
    const __m512i values = _mm512_maskz_loadu_epi8(LowBits(taken.size()), taken.data());
    const __m512i x = _mm512_mask_expand_epi8(zero, present, values);
    _mm512_mask_storeu_epi8(out, LowBits(count), x);
    bad |= _mm512_mask_cmpeq_epi8_mask(present, x, zero);
    bytes -= count;
    out += count;
  }
  run.good &= bad == 0;
  *state = run;
}

#endif

template <typename Loops>
Status EncodeBytes(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                   size_t* written) {
  // With room for the worst case, neither stream can leave the payload.
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes + elements) return Status::kTooSmall;

  EncodeState state{
      {payload.data()}, payload.data() + bitmap_bytes, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, spec.width, spec.channels,
             [&state](const uint8_t* in, size_t bytes) { Loops::EncodeRun(in, bytes, &state); });
  state.presence.Flush();
  *written = static_cast<size_t>(state.value - payload.data());
  return Status::kOk;
}

template <typename Loops>
Status DecodeBytes(const CodecSpec& spec, std::span<const uint8_t> payload,
                   const MutableRows& rows) {
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;

  const auto bitmap = payload.first(bitmap_bytes);
  const auto values = payload.subspan(bitmap_bytes);
  if (elements % 8 != 0 && bitmap.back() >> (elements % 8) != 0) return Status::kCorruptPayload;

  DecodeState state{{bitmap}, values, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, spec.width, spec.channels,
             [&state](uint8_t* out, size_t bytes) { Loops::DecodeRun(out, bytes, &state); });
  return state.good && state.values.empty() ? Status::kOk : Status::kCorruptPayload;
}

// With steps, a stage of symbols at a time goes through the same runs, with 0 for zero. `Loops` are
// those of an instruction set.
bool ReadSteps(const CodecSpec& spec, Steps* steps, size_t* element_bits) {
  if (spec.integers.size() != 1 || (spec.integers[0] != 4 && spec.integers[0] != 8)) return false;
  *element_bits = static_cast<size_t>(spec.integers[0]);
  return ReadSteps(spec, steps);
}

template <typename Loops>
Status EncodeSteps(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                   size_t* written) {
  Steps steps;
  size_t element_bits = 0;
  if (!ReadSteps(spec, &steps, &element_bits)) return Status::kBadArgument;
  const size_t bitmap_bytes = BitmapBytes(Elements(spec, rows.count));
  if (payload.size() < bitmap_bytes) return Status::kTooSmall;
  const auto channels = static_cast<size_t>(spec.channels);
  std::span<uint8_t> room = payload.subspan(bitmap_bytes);
  Stored stored;
  EncodeState state{{payload.data()}, nullptr, 0};
  bool good = true;
  ForEachRun(rows, spec.width, spec.channels, [&](const uint8_t* run, size_t bytes) {
    ForEachStage(run, bytes, channels, [&](const uint8_t* in, size_t first, size_t elements) {
      uint8_t symbols[kStage];
      ForEachChunk(first, elements, channels, [&](size_t i, size_t channel, size_t count) {
        Loops::ToSymbols(steps, in + i, channel, count, symbols + i);
      });
      state.value = stored.symbols + stored.count;
      Loops::EncodeRun(symbols, elements, &state);
      stored.count = static_cast<size_t>(state.value - stored.symbols);
      good = good && stored.Write(element_bits, false, &room);
      if (!good) stored.count = 0;
    });
  });
  if (!good || !stored.Write(element_bits, true, &room)) return Status::kTooSmall;
  state.presence.Flush();
  *written = payload.size() - room.size();
  return Status::kOk;
}

template <typename Loops>
Status DecodeSteps(const CodecSpec& spec, std::span<const uint8_t> payload,
                   const MutableRows& rows) {
  Steps steps;
  size_t element_bits = 0;
  if (!ReadSteps(spec, &steps, &element_bits)) return Status::kBadArgument;
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;
  const auto bitmap = payload.first(bitmap_bytes);
  if (elements % 8 != 0 && bitmap.back() >> (elements % 8) != 0) return Status::kCorruptPayload;
  const auto channels = static_cast<size_t>(spec.channels);
  std::span<const uint8_t> left = payload.subspan(bitmap_bytes);
  Stored stored;
  DecodeState state{{bitmap}, {}, 0};
  bool good = true;
  ForEachRun(rows, spec.width, spec.channels, [&](uint8_t* run, size_t bytes) {
    ForEachStage(run, bytes, channels, [&](uint8_t* out, size_t first, size_t count_all) {
      uint8_t symbols[kStage];
      stored.Read(element_bits, &left);
      state.values = {stored.symbols, stored.count};
      Loops::DecodeRun(symbols, count_all, &state);
      stored.Drop(stored.count - state.values.size());
      ForEachChunk(first, count_all, channels, [&](size_t i, size_t channel, size_t count) {
        good &= Loops::ToBytes(steps, symbols + i, channel, count, out + i);
      });
    });
  });
  // Of 4 bits, a spare one may be left, which is 0.
  good &= state.good && left.empty() && stored.count * element_bits < 8;
  return good && (stored.count == 0 || stored.symbols[0] == 0) ? Status::kOk
                                                               : Status::kCorruptPayload;
}

struct Portable {
  static constexpr auto EncodeRun = thinmaps::EncodeRun;
  static constexpr auto DecodeRun = thinmaps::DecodeRun;
  static constexpr auto ToSymbols = thinmaps::ToSymbols;
  static constexpr auto ToBytes = thinmaps::ToBytes;
};

#if defined(__x86_64__)

struct Avx2 {
  static constexpr auto EncodeRun = EncodeRunAvx2;
  static constexpr auto DecodeRun = DecodeRunAvx2;
  [[gnu::flatten]] THINMAPS_AVX2 static void ToSymbols(const Steps& steps, const uint8_t* in,
                                                       size_t channel, size_t count,
                                                       uint8_t* symbols) {
    thinmaps::ToSymbols(steps, in, channel, count, symbols);
  }
  [[gnu::flatten]] THINMAPS_AVX2 static bool ToBytes(const Steps& steps, const uint8_t* symbols,
                                                     size_t channel, size_t count, uint8_t* out) {
    return thinmaps::ToBytes(steps, symbols, channel, count, out);
  }
};

// 64 channels of a table, from `channel` on.
struct ChunkChannels {
  size_t channel;
  THINMAPS_AVX512 __m512i operator()(const uint8_t* table) const {
    return _mm512_loadu_si512(table + channel);
  }
};

struct Avx512 {
  static constexpr auto EncodeRun = EncodeRunAvx512;
  static constexpr auto DecodeRun = DecodeRunAvx512;
  THINMAPS_AVX512 static void ToSymbols(const Steps& steps, const uint8_t* in, size_t channel,
                                        size_t count, uint8_t* symbols) {
    const StepLanes lanes = LanesOf(steps, ChunkChannels{channel});
    const __mmask64 chunk = LowBits(count);
    const __m512i x = _mm512_maskz_loadu_epi8(chunk, in);
    _mm512_mask_storeu_epi8(symbols, chunk, SymbolsAvx512(lanes, x));
  }
  THINMAPS_AVX512 static bool ToBytes(const Steps& steps, const uint8_t* symbols, size_t channel,
                                      size_t count, uint8_t* out) {
    const StepLanes lanes = LanesOf(steps, ChunkChannels{channel});
    const __mmask64 chunk = LowBits(count);
    const __m512i x = _mm512_maskz_loadu_epi8(chunk, symbols);
    _mm512_mask_storeu_epi8(out, chunk, BytesAvx512(lanes, x));
    return _mm512_cmpgt_epu8_mask(x, lanes.largest) == 0;
  }
};

#endif

template <typename Loops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  const auto encode = spec.tables.empty() ? EncodeBytes<Loops> : EncodeSteps<Loops>;
  return encode(spec, rows, payload, written);
}

template <typename Loops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  const auto decode = spec.tables.empty() ? DecodeBytes<Loops> : DecodeSteps<Loops>;
  return decode(spec, payload, rows);
}

}  // namespace

extern const CodecKernel kZeroBitmap{"zero_bitmap", Isa::kPortable, Encode<Portable>,
                                     Decode<Portable>};
#if defined(__x86_64__)
extern const CodecKernel kZeroBitmapAvx2{"zero_bitmap", Isa::kAvx2, Encode<Avx2>, Decode<Avx2>};
extern const CodecKernel kZeroBitmapAvx512{"zero_bitmap", Isa::kAvx512, Encode<Avx512>,
                                           Decode<Avx512>};
#endif

}  // namespace thinmaps
