// SPDX-License-Identifier: Apache-2.0
// The inner loops of loops.h. Compiled once per instruction set: the build defines THINMAPS_LOOPS,
// the name of the table, and passes the target flags.
//
// Nothing but plain loops and intrinsics here: an inline function of a standard header that is
// compiled with the flags of one instruction set may be kept by the linker for all.
#include "loops.h"

#include "rounding.h"

#if defined(__SSE4_1__)
#include "intrinsics.h"
#endif

// The output may lie on an input, element on element: no iteration depends on another.
#if defined(__clang__)
#define THINMAPS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define THINMAPS_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace thinmaps {
namespace {

inline void Requantise(const int32_t* sums, const float* multiplier, int32_t count,
                       const Rounding& rounding, uint8_t* out) {
  const Rounding r = rounding;
  for (int32_t i = 0; i < count; ++i) {
    out[i] = RoundToByte(static_cast<float>(sums[i]) * multiplier[i], r);
  }
}

// Sums of one block of channels from `first` on. A product of a byte and a filter value fits 16
// bits: 255 * 128 < 2^15.
#if defined(__AVX2__)

inline __m256i Products(const uint8_t* x, const int8_t* w) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  const __m128i filter = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
  return _mm256_mullo_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_cvtepi8_epi16(filter));
}

inline void DepthwiseBlock(const uint8_t* const* pixels, int32_t taps, int32_t channels,
                           int32_t first, const int8_t* filters, const int32_t* bias,
                           int32_t* sums) {
  const auto* start = reinterpret_cast<const __m256i*>(bias + first);
  auto* stop = reinterpret_cast<__m256i*>(sums);
  __m256i low = _mm256_loadu_si256(start);
  __m256i high = _mm256_loadu_si256(start + 1);
  filters += first;
  for (int32_t t = 0; t < taps; ++t, filters += channels) {
    const __m256i products = Products(pixels[t] + first, filters);
    low = _mm256_add_epi32(low, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(products)));
    high = _mm256_add_epi32(high, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(products, 1)));
  }
  _mm256_storeu_si256(stop, low);
  _mm256_storeu_si256(stop + 1, high);
}

#else

// Vectors in the compiler's portable notation: it splits them where the registers are shorter.
using Bytes = uint8_t __attribute__((vector_size(kBlockChannels)));
using SignedBytes = int8_t __attribute__((vector_size(kBlockChannels)));
using Halves = int16_t __attribute__((vector_size(2 * kBlockChannels)));
using Words = int32_t __attribute__((vector_size(4 * kBlockChannels)));

inline void DepthwiseBlock(const uint8_t* const* pixels, int32_t taps, int32_t channels,
                           int32_t first, const int8_t* filters, const int32_t* bias,
                           int32_t* sums) {
  Words sum;
  __builtin_memcpy(&sum, bias + first, sizeof sum);
  filters += first;
  for (int32_t t = 0; t < taps; ++t, filters += channels) {
    Bytes x;
    SignedBytes w;
    __builtin_memcpy(&x, pixels[t] + first, sizeof x);
    __builtin_memcpy(&w, filters, sizeof w);
    const Halves product = __builtin_convertvector(x, Halves) * __builtin_convertvector(w, Halves);
    sum += __builtin_convertvector(product, Words);
  }
  __builtin_memcpy(sums, &sum, sizeof sum);
}

#endif

void Depthwise(const uint8_t* const* pixels, int32_t taps, int32_t channels, const int8_t* filters,
               const int32_t* bias, const float* multiplier, const Rounding& rounding,
               uint8_t* out) {
  alignas(64) int32_t sums[kBlockChannels];
  if (channels >= kBlockChannels) {
    // The last block ends with the last channel, and may do some channels twice.
    for (int32_t block = 0; block < channels; block += kBlockChannels) {
      const int32_t last = channels - kBlockChannels;
      const int32_t first = block < last ? block : last;
      DepthwiseBlock(pixels, taps, channels, first, filters, bias, sums);
      Requantise(sums, multiplier + first, kBlockChannels, rounding, out + first);
    }
    return;
  }
  for (int32_t c = 0; c < channels; ++c) {
    sums[c] = bias[c];
    for (int32_t t = 0; t < taps; ++t) sums[c] += pixels[t][c] * filters[t * channels + c];
  }
  Requantise(sums, multiplier, channels, rounding, out);
}

void Largest(const uint8_t* pixel, int32_t channels, uint8_t* out) {
  THINMAPS_INDEPENDENT
  for (int32_t c = 0; c < channels; ++c) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
}

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
const Loops THINMAPS_LOOPS = {Depthwise, Largest,  Accumulate, Scale,
                              Add,       Multiply, Quantise,   Blend};

}  // namespace thinmaps
