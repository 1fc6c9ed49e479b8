// SPDX-License-Identifier: Apache-2.0
// Native twin of zero_bitmap.py, which specifies the payload: AVX-512 with VBMI2.
#include "zero_bitmap.h"

#if defined(__x86_64__)
#include <numeric>

#include "intrinsics.h"
#define THINMAPS_AVX512_TARGET "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_INLINE [[gnu::target(THINMAPS_AVX512_TARGET), gnu::always_inline]]

namespace thinmaps {
namespace {

using namespace zero_bitmap;

// What elements become before they are stored, chunk by chunk, and after they were read:
// themselves.
struct Unchanged {
  THINMAPS_AVX512_INLINE __m512i Next(__m512i x) { return x; }
};

// Compresses into a register: the form that writes to memory is several times slower.
template <typename Change>
THINMAPS_AVX512 void EncodeChunks(const uint8_t* in, size_t bytes, Change change,
                                  EncodeState* state) {
  EncodeState run = *state;
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(run.zero));
  for (; bytes >= kChunk; bytes -= kChunk, in += kChunk) {
    const __m512i x = change.Next(_mm512_loadu_si512(in));
    const __mmask64 present = _mm512_cmpneq_epi8_mask(x, zero);
    // Whole, because there is room for all elements of the chunk.
    _mm512_storeu_si512(run.value, _mm512_maskz_compress_epi8(present, x));
    run.value += std::popcount(uint64_t{present});
    run.presence.AppendOver(present, kChunk);
  }
  if (bytes > 0) {
    const __mmask64 chunk = LowBits(bytes);
    const __m512i x = change.Next(_mm512_maskz_loadu_epi8(chunk, in));
    const __mmask64 present = _mm512_mask_cmpneq_epi8_mask(chunk, x, zero);
    _mm512_mask_storeu_epi8(run.value, chunk, _mm512_maskz_compress_epi8(present, x));
    run.value += std::popcount(uint64_t{present});
    run.presence.Append(present, bytes);
  }
  *state = run;
}

template <typename Change>
THINMAPS_AVX512 void DecodeChunks(uint8_t* out, size_t bytes, Change& change, DecodeState* state) {
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
      _mm512_storeu_si512(out, change.Next(x));
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
    _mm512_mask_storeu_epi8(out, LowBits(count), change.Next(x));
    bad |= _mm512_mask_cmpeq_epi8_mask(present, x, zero);
    bytes -= count;
    out += count;
  }
  run.good &= bad == 0;
  *state = run;
}

THINMAPS_AVX512 void EncodeRunAvx512(const uint8_t* in, size_t bytes, EncodeState* state) {
  EncodeChunks(in, bytes, Unchanged{}, state);
}

THINMAPS_AVX512 void DecodeRunAvx512(uint8_t* out, size_t bytes, DecodeState* state) {
  Unchanged unchanged;
  DecodeChunks(out, bytes, unchanged, state);
}

// 64 channels of a table, from `channel` on.
struct ChunkChannels {
  size_t channel;
  THINMAPS_STEPS_AVX512 __m512i operator()(const uint8_t* table) const {
    return _mm512_loadu_si512(table + channel);
  }
};

// Chunks begin at as many different channels as the channels have 64ths of a pixel, and the lanes
// of each are made once, where they are this many at most: 10 KiB.
constexpr size_t kMostSets = 16;

struct LaneTables {
  const Steps& steps;
  size_t channels;
  size_t sets;
  StepLanes lanes[kMostSets];

  THINMAPS_AVX512 LaneTables(const Steps& all, size_t channels_of_all)
      : steps(all), channels(channels_of_all), sets(channels / std::gcd(channels, kChunk)) {
    for (size_t set = 0; set < sets && sets <= kMostSets; ++set) {
      lanes[set] = LanesOf(steps, ChunkChannels{set * kChunk % channels});
    }
  }
};

// The lanes of one chunk after the other, from that of a run's element `first`.
struct MadeLanes {
  const LaneTables& tables;
  size_t set;
  THINMAPS_AVX512_INLINE MadeLanes(const LaneTables& all, size_t first)
      : tables(all), set(first / kChunk % all.sets) {}
  THINMAPS_AVX512_INLINE const StepLanes& Next() {
    const StepLanes& lanes = tables.lanes[set];
    set = set + 1 == tables.sets ? 0 : set + 1;
    return lanes;
  }
};

struct LoadedLanes {
  Steps steps;
  size_t channels;
  size_t channel;
  size_t stride;
  THINMAPS_AVX512_INLINE LoadedLanes(const LaneTables& tables, size_t first)
      : steps(tables.steps),
        channels(tables.channels),
        channel(first % channels),
        stride(kChunk % channels) {}
  THINMAPS_AVX512_INLINE StepLanes Next() {
    const StepLanes lanes = LanesOf(steps, ChunkChannels{channel});
    channel += stride;
    channel -= channel < channels ? 0 : channels;
    return lanes;
  }
};

template <typename Lanes>
struct BytesToSymbols {
  Lanes lanes;
  THINMAPS_AVX512_INLINE __m512i Next(__m512i x) { return SymbolsAvx512(lanes.Next(), x); }
};

template <typename Lanes>
struct SymbolsToBytes {
  Lanes lanes;
  __mmask64 wrong = 0;  // symbols that no encoder writes
  THINMAPS_AVX512_INLINE __m512i Next(__m512i x) {
    const StepLanes& chunk = lanes.Next();
    wrong |= _mm512_cmpgt_epu8_mask(x, chunk.largest);
    return BytesAvx512(chunk, x);
  }
};

// Symbols stay in registers.
struct Avx512 {
  static constexpr auto EncodeRun = EncodeRunAvx512;
  static constexpr auto DecodeRun = DecodeRunAvx512;

  using Tables = LaneTables;

  THINMAPS_AVX512 static void EncodeStage(const Tables& tables, size_t first, const uint8_t* in,
                                          size_t elements, EncodeState* state) {
    if (tables.sets <= kMostSets) {
      EncodeChunks(in, elements, BytesToSymbols<MadeLanes>{{tables, first}}, state);
    } else {
      EncodeChunks(in, elements, BytesToSymbols<LoadedLanes>{{tables, first}}, state);
    }
  }

  THINMAPS_AVX512 static bool DecodeStage(const Tables& tables, size_t first, uint8_t* out,
                                          size_t elements, DecodeState* state) {
    if (tables.sets <= kMostSets) {
      return DecodeWith<MadeLanes>({tables, first}, out, elements, state);
    }
    return DecodeWith<LoadedLanes>({tables, first}, out, elements, state);
  }

  // As the portable ones, 64 symbols at a time.
  THINMAPS_AVX512 static void PackHalves(const uint8_t* symbols, size_t bytes, uint8_t* out) {
    const __m512i weights = _mm512_set1_epi16(0x1001);
    for (size_t i = 0; i < bytes; i += kChunk / 2) {
      const __m512i x = _mm512_loadu_si512(symbols + 2 * i);
      const __m256i packed = _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(x, weights));
      _mm256_mask_storeu_epi8(out + i, HalfMask(bytes - i), packed);
    }
  }

  THINMAPS_AVX512 static void UnpackHalves(const uint8_t* in, size_t bytes, uint8_t* symbols) {
    const __m512i half = _mm512_set1_epi8(15);
    for (size_t i = 0; i < bytes; i += kChunk / 2) {
      const __m256i packed = _mm256_maskz_loadu_epi8(HalfMask(bytes - i), in + i);
      const __m512i pairs = _mm512_cvtepu8_epi16(packed);
      const __m512i x = _mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4));
      _mm512_storeu_si512(symbols + 2 * i, _mm512_and_si512(x, half));
    }
  }

 private:
  template <typename Lanes>
  THINMAPS_AVX512 static bool DecodeWith(Lanes lanes, uint8_t* out, size_t elements,
                                         DecodeState* state) {
    SymbolsToBytes<Lanes> change{lanes};
    DecodeChunks(out, elements, change, state);
    return change.wrong == 0;
  }

  static __mmask32 HalfMask(size_t bytes) { return static_cast<__mmask32>(LowBits(bytes)); }
};

}  // namespace

extern const CodecKernel kZeroBitmapAvx512{"zero_bitmap", Isa::kAvx512, Encode<Avx512>,
                                           Decode<Avx512>};

}  // namespace thinmaps

#endif
