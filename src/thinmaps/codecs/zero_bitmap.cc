// SPDX-License-Identifier: Apache-2.0
// Native twin of zero_bitmap.py, which specifies the payload: portable and AVX2.
//
// A unit is a sequence of runs (contiguous elements), a run a sequence of chunks of up to 64
// elements: one word of presence bits each. Only the work on a run differs by instruction set.
// Each works on a copy of the state, which no store of a byte can reach, so that it stays in
// registers.
#include "zero_bitmap.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_AVX2 [[gnu::target("avx2,bmi,bmi2,popcnt")]]
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

#endif

// Stages of portable loops, those on runs being given: symbols pass through memory.
template <auto EncodeRunOf, auto DecodeRunOf>
struct LoopsOver {
  static constexpr auto EncodeRun = EncodeRunOf;
  static constexpr auto DecodeRun = DecodeRunOf;
  using Tables = StepTables;

  static void EncodeStage(const Tables& tables, size_t first, const uint8_t* in, size_t elements,
                          EncodeState* state) {
    uint8_t symbols[kStage];
    ForEachChunk(tables.channels, first, elements, [&](size_t i, size_t channel, size_t count) {
      ToSymbols(tables.steps, in + i, channel, count, symbols + i);
    });
    EncodeRun(symbols, elements, state);
  }

  static bool DecodeStage(const Tables& tables, size_t first, uint8_t* out, size_t elements,
                          DecodeState* state) {
    uint8_t symbols[kStage];
    DecodeRun(symbols, elements, state);
    bool good = true;
    ForEachChunk(tables.channels, first, elements, [&](size_t i, size_t channel, size_t count) {
      good &= ToBytes(tables.steps, symbols + i, channel, count, out + i);
    });
    return good;
  }

  static void PackHalves(const uint8_t* symbols, size_t bytes, uint8_t* out) {
    for (size_t i = 0; i < bytes; ++i) {
      out[i] = static_cast<uint8_t>(symbols[2 * i] | symbols[2 * i + 1] << 4);
    }
  }

  static void UnpackHalves(const uint8_t* in, size_t bytes, uint8_t* symbols) {
    for (size_t i = 0; i < bytes; ++i) {
      symbols[2 * i] = in[i] & 15;
      symbols[2 * i + 1] = in[i] >> 4;
    }
  }
};

using Portable = LoopsOver<EncodeRun, DecodeRun>;

#if defined(__x86_64__)

// The same, vectorised anew.
struct Avx2 : LoopsOver<EncodeRunAvx2, DecodeRunAvx2> {
  using Loops = LoopsOver<EncodeRunAvx2, DecodeRunAvx2>;
  [[gnu::flatten]] THINMAPS_AVX2 static void EncodeStage(const Tables& tables, size_t first,
                                                         const uint8_t* in, size_t elements,
                                                         EncodeState* state) {
    Loops::EncodeStage(tables, first, in, elements, state);
  }
  [[gnu::flatten]] THINMAPS_AVX2 static bool DecodeStage(const Tables& tables, size_t first,
                                                         uint8_t* out, size_t elements,
                                                         DecodeState* state) {
    return Loops::DecodeStage(tables, first, out, elements, state);
  }
};

#endif

}  // namespace

extern const CodecKernel kZeroBitmap{"zero_bitmap", Isa::kPortable, Encode<Portable>,
                                     Decode<Portable>};
#if defined(__x86_64__)
extern const CodecKernel kZeroBitmapAvx2{"zero_bitmap", Isa::kAvx2, Encode<Avx2>, Decode<Avx2>};
#endif

}  // namespace thinmaps
