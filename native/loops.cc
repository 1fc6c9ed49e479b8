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

void Largest(const uint8_t* pixel, int32_t channels, uint8_t* out) {
  THINMAPS_INDEPENDENT
  for (int32_t c = 0; c < channels; ++c) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
}

#if defined(__AVX512VBMI__)

// 128 entries in two registers are indexed by the low 7 bits; bit 7 chooses between two halves.
void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  __m512i entries[4];
  for (int i = 0; i < 4; ++i) entries[i] = _mm512_loadu_si512(table + 64 * i);
  for (int32_t i = 0; i < count; i += 64) {
    const int32_t left = count - i;
    const __mmask64 mask = ~uint64_t{0} >> (left < 64 ? 64 - left : 0);
    const __m512i index = _mm512_maskz_loadu_epi8(mask, x + i);
    const __m512i low = _mm512_permutex2var_epi8(entries[0], index, entries[1]);
    const __m512i high = _mm512_permutex2var_epi8(entries[2], index, entries[3]);
    _mm512_mask_storeu_epi8(out + i, mask,
                            _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(index), high));
  }
}

#else

void Lookup(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = table[x[i]];
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
const Loops THINMAPS_LOOPS = {Depthwise, kDepthwiseBlock, Lookup,   Largest, Accumulate, Scale,
                              Add,       Multiply,        Quantise, Blend};

}  // namespace thinmaps
