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

#else

void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = table[x[i]];
}

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

}  // namespace

extern const Loops THINMAPS_LOOPS;
const Loops THINMAPS_LOOPS = {Depthwise, kDepthwiseBlock, Lookup, LookupThree,
                              Largest,   Accumulate,      Scale,  Add,
                              Multiply,  Quantise,        Blend};

}  // namespace thinmaps
