// SPDX-License-Identifier: Apache-2.0
// Native twin of block_width.py, which specifies the payload: AVX-512 with VBMI and VBMI2.
#include "block_width.h"

#if defined(__x86_64__)
#include <array>

#include "intrinsics.h"
#define THINMAPS_AVX512_TARGET \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi,bmi2,popcnt"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_FLATTEN [[gnu::flatten, gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_LAMBDA __attribute__((target(THINMAPS_AVX512_TARGET), always_inline))

namespace thinmaps {
namespace {

using namespace block_width;

// What packing and unpacking at a width needs, each a vector or repeated through one.
struct alignas(64) WidthTable {
  uint8_t pack[64];    // byte of the packed groups of eight -> where it lies before they close up
  uint8_t unpack[64];  // byte k of group g -> where the group's bits begin, and k further
  uint8_t shift[64];   // symbol -> its first bit in its group
  uint64_t field;      // the low bits of every byte
  uint64_t pair, quad, eight;      // the low bits of every 16, 32 and 64
  alignas(16) uint64_t gap[3][2];  // by how much their upper halves come down, each round
};

constexpr WidthTable TableOf(unsigned width) {
  WidthTable table{};
  for (unsigned i = 0; i < 64; ++i) {
    const unsigned group = width == 0 ? 0 : i / width;
    table.pack[i] = static_cast<uint8_t>((8 * group + (width == 0 ? 0 : i % width)) % 64);
    table.unpack[i] = static_cast<uint8_t>(width * (i / 8) + i % 8);
    table.shift[i] = static_cast<uint8_t>(width * (i % 8));
  }
  const uint64_t one = 1;
  table.field = 0x0101010101010101 * ((one << width) - 1);
  table.pair = 0x0001000100010001 * ((one << width) - 1);
  table.quad = 0x0000000100000001 * ((one << 2 * width) - 1);
  table.eight = (one << 4 * width) - 1;
  for (unsigned round = 0; round < 3; ++round) table.gap[round][0] = (8 - width) << round;
  return table;
}

constexpr std::array<WidthTable, 9> AllTables() {
  std::array<WidthTable, 9> tables{};
  for (unsigned width = 0; width < tables.size(); ++width) tables[width] = TableOf(width);
  return tables;
}

constexpr std::array<WidthTable, 9> kWidths = AllTables();

THINMAPS_AVX512 __m512i Spread(uint64_t bits) {
  return _mm512_set1_epi64(static_cast<long long>(bits));
}

// 16 rows of 16 bytes in every 128 bits become columns: each round turns the bits of (row, byte) by
// one, so that after four the two have changed places.
THINMAPS_AVX512 void Transpose(__m512i* x) {
  __m512i y[kPatchChannels];
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < 8; ++i) {
      y[2 * i] = _mm512_unpacklo_epi8(x[i], x[i + 8]);
      y[2 * i + 1] = _mm512_unpackhi_epi8(x[i], x[i + 8]);
    }
    for (size_t i = 0; i < 8; ++i) {
      x[2 * i] = _mm512_unpacklo_epi8(y[i], y[i + 8]);
      x[2 * i + 1] = _mm512_unpackhi_epi8(y[i], y[i + 8]);
    }
  }
}

// The patch's channels of a table, once for each of the four pixels in a register.
struct PatchChannels {
  size_t channel;
  THINMAPS_AVX512 __m512i operator()(const uint8_t* table) const {
    return _mm512_broadcast_i32x4(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + channel)));
  }
};

// Bits of each channel's largest symbol, of registers that hold four pixels each.
THINMAPS_AVX512 __m128i WidthsOf(const __m512i* x) {
  __m512i all = x[0];
  for (size_t q = 1; q < kPatchChannels; ++q) all = _mm512_or_si512(all, x[q]);
  const __m256i two =
      _mm256_or_si256(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  const __m128i one = _mm_or_si128(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
  // Those of a byte's high half, or else of its low one.
  const __m128i half = _mm_set1_epi8(15);
  const __m128i low = _mm_setr_epi8(0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4);
  const __m128i high = _mm_setr_epi8(0, 5, 6, 6, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8, 8, 8);
  const __m128i shifted = _mm_and_si128(_mm_srli_epi16(one, 4), half);
  return _mm_max_epu8(_mm_shuffle_epi8(low, _mm_and_si128(one, half)),
                      _mm_shuffle_epi8(high, shifted));
}

// How many symbols of each channel are not 0, of registers that hold four pixels each.
THINMAPS_AVX512 __m128i CountsOf(const __m512i* x) {
  const __m512i one = _mm512_set1_epi8(1);
  __m512i all = _mm512_min_epu8(x[0], one);
  for (size_t q = 1; q < kPatchChannels; ++q) {
    all = _mm512_add_epi8(all, _mm512_min_epu8(x[q], one));
  }
  const __m256i two =
      _mm256_add_epi8(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi8(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

// The forms of a patch's blocks, as CodeOf.
//
// What is an integer in the end is compared to whole bytes here and below, not to a __mmask16: GCC
// 12 leaves out the widening of such a comparison's mask, may spill its 16 bits to memory, and then
// reads 32 or 64 there.
struct Forms {
  __m128i codes;
  __m256i value_bytes;  // 16 bits each
  uint32_t sparse;      // a bit per block
};

THINMAPS_AVX512 Forms FormsOf(__m128i widths, __m128i stored, size_t count) {
  const __m256i width = _mm256_cvtepu8_epi16(widths);
  const auto bytes_of = [&](__m256i fields) THINMAPS_AVX512_LAMBDA {
    const __m256i bits = _mm256_mullo_epi16(fields, width);
    return _mm256_srli_epi16(_mm256_add_epi16(bits, _mm256_set1_epi16(7)), 3);
  };
  const __m256i plain = bytes_of(_mm256_set1_epi16(static_cast<short>(count)));
  const __m256i values = bytes_of(_mm256_cvtepu8_epi16(stored));
  const __m256i presence = _mm256_set1_epi16(static_cast<short>(PackedBytes(count, 1)));
  const __m256i fewer = _mm256_cmpgt_epi16(plain, _mm256_add_epi16(values, presence));
  const __m128i sparse =
      _mm_packs_epi16(_mm256_castsi256_si128(fewer), _mm256_extracti128_si256(fewer, 1));
  const __m128i above = _mm_and_si128(sparse, _mm_set1_epi8(static_cast<char>(kSparse)));
  return {_mm_add_epi8(widths, above), _mm256_blendv_epi8(plain, values, fewer),
          static_cast<uint32_t>(_mm_movemask_epi8(sparse))};
}

// As Gather: fields double in three rounds, then the groups of eight close up.
THINMAPS_AVX512 __m512i PackAvx512(__m512i x, size_t width) {
  const WidthTable& table = kWidths[width];
  constexpr int kChoose = 0xCA;  // of three operands the second where the first is set
  const auto gap = [&](size_t round) THINMAPS_AVX512_LAMBDA {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(table.gap[round]));
  };
  x = _mm512_ternarylogic_epi64(Spread(table.pair), x, _mm512_srl_epi16(x, gap(0)), kChoose);
  x = _mm512_ternarylogic_epi64(Spread(table.quad), x, _mm512_srl_epi32(x, gap(1)), kChoose);
  x = _mm512_ternarylogic_epi64(Spread(table.eight), x, _mm512_srl_epi64(x, gap(2)), kChoose);
  return _mm512_permutexvar_epi8(_mm512_load_si512(table.pack), x);
}

THINMAPS_AVX512 __m512i UnpackAvx512(__m512i packed, size_t width) {
  const WidthTable& table = kWidths[width];
  const __m512i groups = _mm512_permutexvar_epi8(_mm512_load_si512(table.unpack), packed);
  const __m512i fields = _mm512_multishift_epi64_epi8(_mm512_load_si512(table.shift), groups);
  return _mm512_and_si512(fields, Spread(table.field));
}

// The presence bits of sparse blocks, to `next` and from it; return what lies behind them.
THINMAPS_AVX512 uint8_t* PutPresence(const uint64_t* present, uint32_t sparse, size_t count,
                                     uint8_t* next) {
  if (count < kBlock) {
    for (uint32_t left = sparse; left != 0; left &= left - 1) {
      Store64(present[std::countr_zero(left)], next);
      next += PackedBytes(count, 1);
    }
    return next;
  }
  for (size_t half = 0; half < 2; ++half) {
    const auto kept = static_cast<__mmask8>(sparse >> 8 * half);
    const __m512i bits = _mm512_loadu_si512(present + 8 * half);
    _mm512_storeu_si512(next, _mm512_maskz_compress_epi64(kept, bits));
    next += 8 * std::popcount(static_cast<unsigned>(kept));
  }
  return next;
}

THINMAPS_AVX512 const uint8_t* GetPresence(const uint8_t* next, uint32_t sparse, size_t count,
                                           uint64_t* present) {
  if (count < kBlock) {
    std::fill_n(present, kPatchChannels, LowBits(count));
    for (uint32_t left = sparse; left != 0; left &= left - 1) {
      const size_t bytes = PackedBytes(count, 1);
      present[std::countr_zero(left)] = Load64(next) & LowBits(8 * bytes);
      next += bytes;
    }
    return next;
  }
  for (size_t half = 0; half < 2; ++half) {
    const auto kept = static_cast<__mmask8>(sparse >> 8 * half);
    const __m512i bits = _mm512_loadu_si512(next);
    _mm512_storeu_si512(present + 8 * half,
                        _mm512_mask_expand_epi64(_mm512_set1_epi64(-1), kept, bits));
    next += 8 * std::popcount(static_cast<unsigned>(kept));
  }
  return next;
}

// Register q holds pixels q, q + 16, q + 32 and q + 48, 16 channels each.
template <typename Pixel>
THINMAPS_AVX512 void LoadPixels(__m512i* x, Pixel pixel) {
  for (size_t q = 0; q < kPatchChannels; ++q) {
    x[q] = _mm512_castsi128_si512(pixel(q));
    x[q] = _mm512_inserti32x4(x[q], pixel(q + 16), 1);
    x[q] = _mm512_inserti32x4(x[q], pixel(q + 32), 2);
    x[q] = _mm512_inserti32x4(x[q], pixel(q + 48), 3);
  }
}

template <typename Put>
THINMAPS_AVX512 void StorePixels(const __m512i* x, Put put) {
  for (size_t q = 0; q < kPatchChannels; ++q) {
    put(q, _mm512_castsi512_si128(x[q]));
    put(q + 16, _mm512_extracti32x4_epi32(x[q], 1));
    put(q + 32, _mm512_extracti32x4_epi32(x[q], 2));
    put(q + 48, _mm512_extracti32x4_epi32(x[q], 3));
  }
}

struct Avx512 {
  THINMAPS_AVX512 static void Load(const Steps& steps, const Place<const uint8_t>& from,
                                   Patch* patch) {
    __m512i x[kPatchChannels];
    if (from.channels == kPatchChannels) {
      LoadPixels(x, [&](size_t p) THINMAPS_AVX512_LAMBDA {
        const uint8_t* pixel = from.pixels[p] + from.channel;
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel));
      });
    } else {
      const auto channels = static_cast<__mmask16>(LowBits(from.channels));
      LoadPixels(x, [&](size_t p) THINMAPS_AVX512_LAMBDA {
        return _mm_maskz_loadu_epi8(channels, from.pixels[p] + from.channel);
      });
    }
    if (!steps.none) {
      const StepLanes lanes = LanesOf(steps, PatchChannels{from.channel});
      for (__m512i& bytes : x) bytes = SymbolsAvx512(lanes, bytes);
    }
    // What is no channel has no symbols, whatever its bytes would be.
    const auto named = static_cast<__mmask16>(LowBits(from.channels));
    _mm_store_si128(reinterpret_cast<__m128i*>(patch->width),
                    _mm_maskz_mov_epi8(named, WidthsOf(x)));
    _mm_store_si128(reinterpret_cast<__m128i*>(patch->stored),
                    _mm_maskz_mov_epi8(named, CountsOf(x)));
    Transpose(x);
    const __mmask64 positions = LowBits(from.positions);
    for (size_t c = 0; c < kPatchChannels; ++c) {
      _mm512_store_si512(patch->symbols[c], _mm512_maskz_mov_epi8(positions, x[c]));
    }
    if (from.positions == kBlock) return;
    // The last pixel was counted again where there was none.
    for (size_t c = 0; c < from.channels; ++c) {
      const uint64_t present = _mm512_test_epi8_mask(x[c], x[c]) & positions;
      patch->stored[c] = static_cast<uint8_t>(std::popcount(present));
    }
  }

  THINMAPS_AVX512 static bool Store(const Steps& steps, const Patch& patch,
                                    const Place<uint8_t>& to) {
    __m512i x[kPatchChannels];
    for (size_t c = 0; c < kPatchChannels; ++c) {
      x[c] = c < to.channels ? _mm512_load_si512(patch.symbols[c]) : _mm512_setzero_si512();
    }
    Transpose(x);
    const __m128i codes = _mm_load_si128(reinterpret_cast<const __m128i*>(patch.code));
    const __m128i counts = CountsOf(x);
    const Forms forms = FormsOf(WidthsOf(x), counts, to.positions);
    uint64_t wrong = _mm_movemask_epi8(_mm_cmpeq_epi8(codes, forms.codes)) != 0xFFFF;
    // Where a sparse block has fewer than were stored, a zero was.
    const __m128i stored = _mm_load_si128(reinterpret_cast<const __m128i*>(patch.stored));
    const auto told = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(counts, stored)));
    wrong |= forms.sparse & ~told;
    if (!steps.none) {
      const StepLanes lanes = LanesOf(steps, PatchChannels{to.channel});
      for (__m512i& symbols : x) {
        wrong |= _mm512_cmpgt_epu8_mask(symbols, lanes.largest);
        symbols = BytesAvx512(lanes, symbols);
      }
    }
    if (to.positions == kBlock && to.channels == kPatchChannels) {
      StorePixels(x, [&](size_t p, __m128i bytes) THINMAPS_AVX512_LAMBDA {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to.pixels[p] + to.channel), bytes);
      });
    } else {
      const auto channels = static_cast<__mmask16>(LowBits(to.channels));
      StorePixels(x, [&](size_t p, __m128i bytes) THINMAPS_AVX512_LAMBDA {
        if (p < to.positions) _mm_mask_storeu_epi8(to.pixels[p] + to.channel, channels, bytes);
      });
    }
    return wrong == 0;
  }

  // Without branches: a plain block is a sparse one in which everything is present.
  THINMAPS_AVX512 static size_t PutPatch(const Patch& patch, size_t channels, size_t count,
                                         uint8_t* out) {
    const Forms forms =
        FormsOf(_mm_load_si128(reinterpret_cast<const __m128i*>(patch.width)),
                _mm_load_si128(reinterpret_cast<const __m128i*>(patch.stored)), count);
    uint64_t present[kPatchChannels];
    for (size_t c = 0; c < channels; ++c) {
      const __m512i x = _mm512_load_si512(patch.symbols[c]);
      present[c] = _mm512_test_epi8_mask(x, x);
    }
    const __m128i pairs = _mm_maddubs_epi16(forms.codes, _mm_set1_epi16(0x1001));
    const auto codes = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
    Store64(codes, out);
    uint8_t* next = PutPresence(present, forms.sparse, count, out + PackedBytes(channels, 4));

    alignas(32) uint16_t bytes[kPatchChannels];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), forms.value_bytes);
    for (size_t c = 0; c < channels; ++c) {
      const __mmask64 kept = present[c] | ((forms.sparse >> c & uint64_t{1}) - 1);
      const __m512i x = _mm512_maskz_compress_epi8(kept, _mm512_load_si512(patch.symbols[c]));
      _mm512_storeu_si512(next, PackAvx512(x, patch.width[c]));
      next += bytes[c];
    }
    return static_cast<size_t>(next - out);
  }

  THINMAPS_AVX512 static size_t GetPatch(const uint8_t* in, size_t channels, size_t count,
                                         Patch* patch) {
    const uint64_t nibbles = LoadCodes(in, channels);
    const __m128i pairs = _mm_cvtsi64_si128(static_cast<long long>(nibbles));
    const __m128i half = _mm_set1_epi8(15);
    const __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(pairs, half),
                                            _mm_and_si128(_mm_srli_epi16(pairs, 4), half));
    const __m128i above = _mm_cmpgt_epi8(codes, _mm_set1_epi8(static_cast<char>(kWidestPlain)));
    const __m128i widths =
        _mm_sub_epi8(codes, _mm_and_si128(above, _mm_set1_epi8(static_cast<char>(kSparse))));
    const auto sparse = static_cast<uint32_t>(_mm_movemask_epi8(above));
    _mm_store_si128(reinterpret_cast<__m128i*>(patch->code), codes);
    _mm_store_si128(reinterpret_cast<__m128i*>(patch->width), widths);

    uint64_t present[kPatchChannels];
    const uint8_t* next = GetPresence(in + PackedBytes(channels, 4), sparse, count, present);
    uint64_t wrong = channels < kPatchChannels ? nibbles >> 4 * channels : 0;
    for (size_t c = 0; c < channels; ++c) {
      const auto fields = static_cast<size_t>(std::popcount(present[c]));
      const size_t bits = fields * patch->width[c];
      // Whole: what is behind the last field goes nowhere.
      const __m512i kept = UnpackAvx512(_mm512_loadu_si512(next), patch->width[c]);
      _mm512_store_si512(patch->symbols[c], _mm512_maskz_expand_epi8(present[c], kept));
      patch->stored[c] = static_cast<uint8_t>(fields);
      wrong |= bits % 8 != 0 ? next[bits / 8] >> bits % 8 : 0;
      wrong |= present[c] & ~LowBits(count);
      next += (bits + 7) / 8;
    }
    return wrong == 0 ? static_cast<size_t>(next - in) : kMostPatchBytes + 1;
  }

 private:
  THINMAPS_AVX512 static uint64_t LoadCodes(const uint8_t* in, size_t channels) {
    return Load64(in) & LowBits(8 * PackedBytes(channels, 4));
  }
};

THINMAPS_AVX512_FLATTEN Status EncodeAvx512(const CodecSpec& spec, const ConstRows& rows,
                                            std::span<uint8_t> payload, size_t* written) {
  return Encode<Avx512>(spec, rows, payload, written);
}
THINMAPS_AVX512_FLATTEN Status DecodeAvx512(const CodecSpec& spec, std::span<const uint8_t> payload,
                                            int32_t column, int32_t columns,
                                            const MutableRows& rows) {
  return Decode<Avx512>(spec, payload, column, columns, rows);
}

}  // namespace

extern const CodecKernel kBlockWidthAvx512{"block_width", Isa::kAvx512, EncodeAvx512, DecodeAvx512};

}  // namespace thinmaps

#endif
