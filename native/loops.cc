// SPDX-License-Identifier: Apache-2.0
// The inner loops of loops.h. Compiled once per instruction set: the build defines THINMAPS_LOOPS,
// the name of the table, and passes the target flags.
//
// Nothing but plain loops and intrinsics here: an inline function of a standard header that is
// compiled with the flags of one instruction set may be kept by the linker for all.
#include "loops.h"

#include "depthwise_loops.h"
#include "rounding.h"

// The output may lie on an input, element on element: no iteration depends on another.
#if defined(__clang__)
#define THINMAPS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define THINMAPS_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace thinmaps {
namespace {

#if defined(__AVX512VBMI__)

// The first `left` of 64 bytes.
inline __mmask64 First(int32_t left) { return ~uint64_t{0} >> (left < 64 ? 64 - left : 0); }

struct Table {
  __m512i entries[4];

  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) entries[i] = _mm512_loadu_si512(table + 64 * i);
  }

  // 128 entries in two registers are indexed by the low 7 bits; bit 7 chooses between two halves.
  __m512i Of(__m512i index) const {
    const __m512i low = _mm512_permutex2var_epi8(entries[0], index, entries[1]);
    const __m512i high = _mm512_permutex2var_epi8(entries[2], index, entries[3]);
    return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(index), high);
  }
};

void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  const Table entries(table);
  for (int32_t i = 0; i < count; i += 64) {
    const __mmask64 mask = First(count - i);
    const __m512i index = _mm512_maskz_loadu_epi8(mask, x + i);
    _mm512_mask_storeu_epi8(out + i, mask, entries.Of(index));
  }
}

// Byte i of a vector belongs to channel (i + v) % 3 of vector v % 3, as 64 % 3 is 1.
void LookupThree(const uint8_t* tables, const uint8_t* x, int32_t pixels, uint8_t* out) {
  constexpr uint64_t kEveryThird = 0x9249249249249249u;
  const Table table[3] = {Table(tables), Table(tables + 256), Table(tables + 512)};
  const __mmask64 first[3] = {kEveryThird, kEveryThird << 2, kEveryThird << 1};
  for (int32_t i = 0, v = 0; i < 3 * pixels; i += 64, v = v == 2 ? 0 : v + 1) {
    const __mmask64 mask = First(3 * pixels - i);
    const __m512i index = _mm512_maskz_loadu_epi8(mask, x + i);
    __m512i bytes = table[2].Of(index);
    bytes = _mm512_mask_mov_epi8(bytes, first[v], table[0].Of(index));
    bytes = _mm512_mask_mov_epi8(bytes, first[v == 0 ? 2 : v - 1], table[1].Of(index));
    _mm512_mask_storeu_epi8(out + i, mask, bytes);
  }
}

void Largest(const uint8_t* const* pixels, int32_t count, int32_t channels, uint8_t* out) {
  for (int32_t c = 0; c < channels; c += 64) {
    const __mmask64 mask = First(channels - c);
    __m512i largest = _mm512_maskz_loadu_epi8(mask, pixels[0] + c);
    for (int32_t i = 1; i < count; ++i) {
      largest = _mm512_max_epu8(largest, _mm512_maskz_loadu_epi8(mask, pixels[i] + c));
    }
    _mm512_mask_storeu_epi8(out + c, mask, largest);
  }
}

#elif defined(THINMAPS_NEON)

// Indices past a table of 64 bytes give 0 (TBL) or leave what was there (TBX).
struct Table {
  uint8x16x4_t entries[4];

  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) entries[i] = vld1q_u8_x4(table + 64 * i);
  }

  uint8x16_t Of(uint8x16_t index) const {
    uint8x16_t bytes = vqtbl4q_u8(entries[0], index);
    for (int i = 1; i < 4; ++i) {
      index = vsubq_u8(index, vdupq_n_u8(64));
      bytes = vqtbx4q_u8(bytes, entries[i], index);
    }
    return bytes;
  }
};

void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  const Table entries(table);
  int32_t i = 0;
  for (; i + 16 <= count; i += 16) vst1q_u8(out + i, entries.Of(vld1q_u8(x + i)));
  for (; i < count; ++i) out[i] = table[x[i]];
}

#else

void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = table[x[i]];
}

#endif

#if !defined(__AVX512VBMI__)

void LookupThree(const uint8_t* tables, const uint8_t* x, int32_t pixels, uint8_t* out) {
  for (int32_t p = 0; p < pixels; ++p, x += 3, out += 3) {
    for (int32_t c = 0; c < 3; ++c) out[c] = tables[256 * c + x[c]];
  }
}

void Largest(const uint8_t* const* pixels, int32_t count, int32_t channels, uint8_t* out) {
  __builtin_memmove(out, pixels[0], static_cast<size_t>(channels));
  for (int32_t i = 1; i < count; ++i) {
    const uint8_t* pixel = pixels[i];
    THINMAPS_INDEPENDENT
    for (int32_t c = 0; c < channels; ++c) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
  }
}

#endif

void Accumulate(const uint8_t* pixel, int32_t channels, int32_t zero_point, int32_t* sums) {
  for (int32_t c = 0; c < channels; ++c) sums[c] += pixel[c] - zero_point;
}

void Scale(const int32_t* sums, float multiplier, int32_t count, const Rounding& rounding,
           uint8_t* out) {
  const Rounding r = rounding;
  for (int32_t i = 0; i < count; ++i) {
    out[i] = RoundToByte(static_cast<float>(sums[i]) * multiplier, r);
  }
}

#if defined(__AVX512VBMI__)

// 16 values fl((x[i] - zero point) * ratio).
inline __m512 Scaled(const Operand& x, __mmask16 mask, int32_t i) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, x.bytes + i));
  const __m512i centred = _mm512_sub_epi32(wide, _mm512_set1_epi32(x.zero_point));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(centred), _mm512_set1_ps(x.ratio));
}

void Add(const Operand& a, const Operand& b, int32_t count, const Rounding& rounding,
         uint8_t* out) {
  const Operand x = a;
  const Operand y = b;
  const __m512 before = _mm512_set1_ps(rounding.before);
  const __m512 low = _mm512_set1_ps(rounding.low);
  const __m512 high = _mm512_set1_ps(rounding.high);
  const __m512i after = _mm512_set1_epi32(rounding.after);
  for (int32_t i = 0; i < count; i += 16) {
    const int32_t left = count - i;
    const auto mask = static_cast<__mmask16>(0xFFFF >> (left < 16 ? 16 - left : 0));
    const __m512 sum = _mm512_add_ps(Scaled(x, mask, i), Scaled(y, mask, i));
    const __m512 value = _mm512_add_ps(sum, before);
    const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
    const __m512i rounded = _mm512_cvt_roundps_epi32(clamped, 8);  // to nearest, no exceptions
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(rounded, after));
    _mm_mask_storeu_epi8(out + i, mask, bytes);
  }
}

#else

void Add(const Operand& a, const Operand& b, int32_t count, const Rounding& rounding,
         uint8_t* out) {
  const Operand x = a;
  const Operand y = b;
  const Rounding r = rounding;
  THINMAPS_INDEPENDENT
  for (int32_t i = 0; i < count; ++i) {
    const float left = static_cast<float>(x.bytes[i] - x.zero_point) * x.ratio;
    const float right = static_cast<float>(y.bytes[i] - y.zero_point) * y.ratio;
    out[i] = RoundToByte(left + right, r);
  }
}

#endif

// Elements from `first` on.
inline void AddOnGridFrom(int32_t first, const GridSum& sum, const uint8_t* a, const uint8_t* b,
                          int32_t count, const Rounding& rounding, uint8_t* out) {
  const GridSum s = sum;
  const Rounding r = rounding;
  THINMAPS_INDEPENDENT
  for (int32_t i = first; i < count; ++i) {
    const int32_t steps = a[i] * s.a_steps + b[i] * s.b_steps + s.bias;
    out[i] = RoundToByte(static_cast<float>(steps) * s.grid, r);
  }
}

#if defined(__AVX512VNNI__)

// 16 rounded sums from 16 pairs of words.
struct PairsToSums {
  __m512i steps, bias;
  __m512 grid;

  explicit PairsToSums(const GridSum& sum)
      : steps(_mm512_set1_epi32(sum.b_steps << 16 | sum.a_steps)),
        bias(_mm512_set1_epi32(sum.bias)),
        grid(_mm512_set1_ps(sum.grid)) {}

  __m512i Of(__m512i pairs) const {
    const __m512 whole = _mm512_cvtepi32_ps(_mm512_dpwssd_epi32(bias, pairs, steps));
    return _mm512_cvt_roundps_epi32(_mm512_mul_ps(whole, grid), 8);  // to nearest, no exceptions
  }

  // 32 words from 32 pairs of bytes. Unpacking and packing both keep to lanes of 16 bytes.
  __m512i Words(__m512i pairs) const {
    const __m512i zero = _mm512_setzero_si512();
    return _mm512_packs_epi32(Of(_mm512_unpacklo_epi8(pairs, zero)),
                              Of(_mm512_unpackhi_epi8(pairs, zero)));
  }
};

void AddOnGrid(const GridSum& sum, const uint8_t* a, const uint8_t* b, int32_t count,
               const Rounding& rounding, uint8_t* out) {
  const PairsToSums sums(sum);
  const auto bound = [&](float value) {
    return _mm512_set1_epi8(static_cast<char>(static_cast<int32_t>(value) + rounding.after));
  };
  const __m512i low = bound(rounding.low);
  const __m512i high = bound(rounding.high);
  const __m512i after = _mm512_set1_epi16(static_cast<int16_t>(rounding.after));
  for (int32_t i = 0; i < count; i += 64) {
    const __mmask64 mask = First(count - i);
    const __m512i x = _mm512_maskz_loadu_epi8(mask, a + i);
    const __m512i y = _mm512_maskz_loadu_epi8(mask, b + i);
    const __m512i lower = sums.Words(_mm512_unpacklo_epi8(x, y));
    const __m512i upper = sums.Words(_mm512_unpackhi_epi8(x, y));
    const __m512i bytes =
        _mm512_packus_epi16(_mm512_adds_epi16(lower, after), _mm512_adds_epi16(upper, after));
    const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(bytes, low), high);
    _mm512_mask_storeu_epi8(out + i, mask, clamped);
  }
}

#elif defined(__AVX2__)

// As above, half as wide.
struct PairsToSums {
  __m256i steps, bias;
  __m256 grid;

  explicit PairsToSums(const GridSum& sum)
      : steps(_mm256_set1_epi32(sum.b_steps << 16 | sum.a_steps)),
        bias(_mm256_set1_epi32(sum.bias)),
        grid(_mm256_set1_ps(sum.grid)) {}

  __m256i Of(__m256i pairs) const {
    const __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(pairs, steps), bias);
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(whole), grid));
  }

  __m256i Words(__m256i pairs) const {
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_packs_epi32(Of(_mm256_unpacklo_epi8(pairs, zero)),
                              Of(_mm256_unpackhi_epi8(pairs, zero)));
  }
};

void AddOnGrid(const GridSum& sum, const uint8_t* a, const uint8_t* b, int32_t count,
               const Rounding& rounding, uint8_t* out) {
  const PairsToSums sums(sum);
  const auto bound = [&](float value) {
    return _mm256_set1_epi8(static_cast<char>(static_cast<int32_t>(value) + rounding.after));
  };
  const __m256i low = bound(rounding.low);
  const __m256i high = bound(rounding.high);
  const __m256i after = _mm256_set1_epi16(static_cast<int16_t>(rounding.after));
  int32_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i));
    const __m256i lower = sums.Words(_mm256_unpacklo_epi8(x, y));
    const __m256i upper = sums.Words(_mm256_unpackhi_epi8(x, y));
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_adds_epi16(lower, after), _mm256_adds_epi16(upper, after));
    const __m256i clamped = _mm256_min_epu8(_mm256_max_epu8(bytes, low), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), clamped);
  }
  AddOnGridFrom(i, sum, a, b, count, rounding, out);
}

#else

void AddOnGrid(const GridSum& sum, const uint8_t* a, const uint8_t* b, int32_t count,
               const Rounding& rounding, uint8_t* out) {
  AddOnGridFrom(0, sum, a, b, count, rounding, out);
}

#endif

void Multiply(const Operand& a, const Operand& b, float multiplier, int32_t count,
              const Rounding& rounding, uint8_t* out) {
  const Operand x = a;
  const Operand y = b;
  const Rounding r = rounding;
  THINMAPS_INDEPENDENT
  for (int32_t i = 0; i < count; ++i) {
    const int32_t product = (x.bytes[i] - x.zero_point) * (y.bytes[i] - y.zero_point);
    out[i] = RoundToByte(static_cast<float>(product) * multiplier, r);
  }
}

void Quantise(const float* x, float scale, int32_t count, const Rounding& rounding, uint8_t* out) {
  const Rounding r = rounding;
  for (int32_t i = 0; i < count; ++i) out[i] = RoundToByte(x[i] / scale, r);
}

void Blend(const uint8_t* const* corners, const int32_t* weights, int32_t channels, uint8_t* out) {
  for (int32_t c = 0; c < channels; ++c) {
    const int32_t sum = corners[0][c] * weights[0] + corners[1][c] * weights[1] +
                        corners[2][c] * weights[2] + corners[3][c] * weights[3];
    out[c] = static_cast<uint8_t>((sum + (1 << 21)) >> 22);
  }
}

#if defined(__AVX512BW__)

// Of a known number of codes, so that their coefficients stay in registers: the plain loops below,
// for 32 of the 64 bytes of a quad at a time.
template <int32_t kCodes>
void MakeFiltersOf(const FilterBlock& block, const int16_t* factors) {
  int16_t signs[kCodes * kTaps];
  for (int32_t i = 0; i < kCodes * kTaps; ++i) signs[i] = block.code[i];
  for (int32_t half = 0; half < kQuadBytes; half += 32) {
    const __m512i factor = _mm512_loadu_si512(factors + half);
    const int8_t* from = block.coefficients + half;
    int8_t* out = block.filters + half;
    for (int32_t quad = 0; quad < block.quads; ++quad, out += kQuadBytes) {
      __m512i words[kCodes];
      for (__m512i& word : words) {
        word = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        from += kQuadBytes;
      }
      for (int32_t tap = 0; tap < kTaps; ++tap) {
        __m512i sums = _mm512_setzero_si512();
        for (int32_t j = 0; j < kCodes; ++j) {
          const __m512i sign = _mm512_set1_epi16(signs[j * kTaps + tap]);
          sums = _mm512_add_epi16(sums, _mm512_mullo_epi16(words[j], sign));
        }
        const __m512i rounded = _mm512_mulhrs_epi16(_mm512_add_epi16(sums, sums), factor);
        const __m256i bytes = _mm512_cvtsepi16_epi8(rounded);  // -128..127
        const __m256i clamped = _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + block.places[tap]), clamped);
      }
    }
  }
}

template <int32_t kCodes = 9>
void MakeFiltersOfAny(const FilterBlock& block, const int16_t* factors) {
  if (block.codes == kCodes) return MakeFiltersOf<kCodes>(block, factors);
  if constexpr (kCodes > 1) MakeFiltersOfAny<kCodes - 1>(block, factors);
}

#else

void MakeFiltersOfAny(const FilterBlock& block, const int16_t* factors) {
  for (int32_t quad = 0; quad < block.quads; ++quad) {
    const int8_t* coefficients = block.coefficients + ptrdiff_t{quad} * block.codes * kQuadBytes;
    for (int32_t tap = 0; tap < kTaps; ++tap) {
      int16_t sums[kQuadBytes] = {};
      for (int32_t j = 0; j < block.codes; ++j) {
        const int8_t* a = coefficients + j * kQuadBytes;
        const int16_t sign = block.code[j * kTaps + tap];
        for (int32_t i = 0; i < kQuadBytes; ++i) {
          sums[i] = static_cast<int16_t>(sums[i] + sign * a[i]);
        }
      }
      int8_t* out = block.filters + block.places[tap] + ptrdiff_t{quad} * kQuadBytes;
      for (int32_t i = 0; i < kQuadBytes; ++i) {
        const int32_t rounded = (2 * sums[i] * factors[i] + (1 << 14)) >> 15;
        out[i] = static_cast<int8_t>(rounded < -127 ? -127 : rounded > 127 ? 127 : rounded);
      }
    }
  }
}

#endif

// |sum| <= 9 * 128. (2 sum * 2^(14 - shift) + 2^14) >> 15 is the rounded shift, for 0 too.
void MakeFilters(const FilterBlock& block) {
  int16_t factors[kQuadBytes];
  for (int32_t i = 0; i < kQuadBytes; ++i) {
    factors[i] = static_cast<int16_t>(1 << (14 - block.shift[i / kQuad]));
  }
  MakeFiltersOfAny(block, factors);
}

}  // namespace

extern const Loops THINMAPS_LOOPS;
const Loops THINMAPS_LOOPS = {Depthwise,  kDepthwiseBlock, Lookup,     LookupThree, Largest,
                              Accumulate, Scale,           Add,        AddOnGrid,   Multiply,
                              Quantise,   Blend,           MakeFilters};

}  // namespace thinmaps
