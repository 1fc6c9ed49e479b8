// SPDX-License-Identifier: Apache-2.0
// The inner loops of loops.h. Compiled once per instruction set: the build defines THINMAPS_LOOPS,
// the name of the table, and passes the target flags.
//
// Nothing but plain loops and intrinsics here: an inline function of a standard header that is
// compiled with the flags of one instruction set may be kept by the linker for all.
#include "loops.h"

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

// The output may lie on an input, element on element: no iteration depends on another.
#if defined(__clang__)
#define THINMAPS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define THINMAPS_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace thinmaps {
namespace {

// Adding 1.5 * 2^23 leaves the rounded value of |v| < 2^22 in the low bits of the sum, rounded
// half to even like every float addition; its own low byte is 0.
constexpr float kRoundingShift = 12582912.0f;

inline uint8_t RoundToByte(float value, const Rounding& rounding) {
  value += rounding.before;
  value = value < rounding.low ? rounding.low : value;
  value = value > rounding.high ? rounding.high : value;
  const auto bits = __builtin_bit_cast(int32_t, value + kRoundingShift);
  return static_cast<uint8_t>(bits + rounding.after);
}

inline uint32_t LoadQuad(const uint8_t* x) {
  uint32_t quad;
  __builtin_memcpy(&quad, x, sizeof quad);
  return quad;
}

// The last 1 to 3 channels; reading a whole quad could leave the map.
inline uint32_t LoadPartialQuad(const uint8_t* x, int32_t channels) {
  uint32_t quad = x[0];
  if (channels > 1) quad |= static_cast<uint32_t>(x[1]) << 8;
  if (channels > 2) quad |= static_cast<uint32_t>(x[2]) << 16;
  return quad;
}

#if defined(__AVX512VNNI__)

template <int kPixels>
void DotPixels(const uint8_t* const* pixels, int32_t taps, int32_t channels, const int8_t* filters,
               int32_t* sums) {
  __m512i sum[kPixels];
  for (int p = 0; p < kPixels; ++p) sum[p] = _mm512_loadu_si512(sums + p * kBlockChannels);
  const auto step = [&](auto load) {
    const __m512i filter = _mm512_loadu_si512(filters);
    filters += kQuadBytes;
    for (int p = 0; p < kPixels; ++p) {
      const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(load(p)));
      sum[p] = _mm512_dpbusd_epi32(sum[p], x, filter);
    }
  };
  const int32_t partial = channels % kQuad;
  for (int32_t t = 0; t < taps; ++t, pixels += kTilePixels) {
    for (int32_t c = 0; c < channels - partial; c += kQuad) {
      step([&](int p) { return LoadQuad(pixels[p] + c); });
    }
    if (partial != 0) {
      step([&](int p) { return LoadPartialQuad(pixels[p] + channels - partial, partial); });
    }
  }
  for (int p = 0; p < kPixels; ++p) _mm512_storeu_si512(sums + p * kBlockChannels, sum[p]);
}

void Dot(const uint8_t* const* pixels, int32_t pixel_count, int32_t taps, int32_t channels,
         const int8_t* filters, int32_t* sums) {
  if (pixel_count > 4) return DotPixels<8>(pixels, taps, channels, filters, sums);
  if (pixel_count > 1) return DotPixels<4>(pixels, taps, channels, filters, sums);
  DotPixels<1>(pixels, taps, channels, filters, sums);
}

#elif defined(__AVX2__)

// Bytes are widened to 16 bits and multiplied in pairs (vpmaddwd): a sum of two byte products
// does not fit the 16 bits of vpmaddubsw. A vector of sums holds 4 channels x 2 halves.
template <int kPixels>
void DotPixels(const uint8_t* const* pixels, int32_t taps, int32_t channels, const int8_t* filters,
               int32_t* sums) {
  __m256i sum[kPixels][4];
  for (int p = 0; p < kPixels; ++p) {
    for (int k = 0; k < 4; ++k) sum[p][k] = _mm256_setzero_si256();
  }
  const auto step = [&](auto load) {
    __m256i x[kPixels];
    for (int p = 0; p < kPixels; ++p) {
      const __m128i quad = _mm_cvtsi32_si128(static_cast<int32_t>(load(p)));
      x[p] = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(quad));
    }
    for (int k = 0; k < 4; ++k) {
      const __m256i filter =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(filters + 16 * k)));
      for (int p = 0; p < kPixels; ++p) {
        sum[p][k] = _mm256_add_epi32(sum[p][k], _mm256_madd_epi16(x[p], filter));
      }
    }
    filters += kQuadBytes;
  };
  const int32_t partial = channels % kQuad;
  for (int32_t t = 0; t < taps; ++t, pixels += kTilePixels) {
    for (int32_t c = 0; c < channels - partial; c += kQuad) {
      step([&](int p) { return LoadQuad(pixels[p] + c); });
    }
    if (partial != 0) {
      step([&](int p) { return LoadPartialQuad(pixels[p] + channels - partial, partial); });
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int k = 0; k < 2; ++k) {
      auto* place = reinterpret_cast<__m256i*>(sums + p * kBlockChannels + 8 * k);
      const __m256i halves = _mm256_hadd_epi32(sum[p][2 * k], sum[p][2 * k + 1]);
      const __m256i ordered = _mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0));
      _mm256_storeu_si256(place, _mm256_add_epi32(_mm256_loadu_si256(place), ordered));
    }
  }
}

void Dot(const uint8_t* const* pixels, int32_t pixel_count, int32_t taps, int32_t channels,
         const int8_t* filters, int32_t* sums) {
  for (int32_t p = 0; p < pixel_count; p += 2) {
    DotPixels<2>(pixels + p, taps, channels, filters, sums + p * kBlockChannels);
  }
}

#elif defined(__SSE4_1__)

// As for AVX2, one pixel at a time; a vector of sums holds 2 channels x 2 halves.
void DotPixel(const uint8_t* const* pixels, int32_t taps, int32_t channels, const int8_t* filters,
              int32_t* sums) {
  __m128i sum[8];
  for (int k = 0; k < 8; ++k) sum[k] = _mm_setzero_si128();
  const auto step = [&](uint32_t quad) {
    const __m128i half = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(static_cast<int32_t>(quad)));
    const __m128i x = _mm_unpacklo_epi64(half, half);
    for (int k = 0; k < 8; ++k) {
      const __m128i filter =
          _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(filters + 8 * k)));
      sum[k] = _mm_add_epi32(sum[k], _mm_madd_epi16(x, filter));
    }
    filters += kQuadBytes;
  };
  const int32_t partial = channels % kQuad;
  for (int32_t t = 0; t < taps; ++t, pixels += kTilePixels) {
    for (int32_t c = 0; c < channels - partial; c += kQuad) step(LoadQuad(*pixels + c));
    if (partial != 0) step(LoadPartialQuad(*pixels + channels - partial, partial));
  }
  for (int k = 0; k < 4; ++k) {
    auto* place = reinterpret_cast<__m128i*>(sums + 4 * k);
    const __m128i whole = _mm_hadd_epi32(sum[2 * k], sum[2 * k + 1]);
    _mm_storeu_si128(place, _mm_add_epi32(_mm_loadu_si128(place), whole));
  }
}

void Dot(const uint8_t* const* pixels, int32_t pixel_count, int32_t taps, int32_t channels,
         const int8_t* filters, int32_t* sums) {
  for (int32_t p = 0; p < pixel_count; ++p) {
    DotPixel(pixels + p, taps, channels, filters, sums + p * kBlockChannels);
  }
}

#else

void Dot(const uint8_t* const* pixels, int32_t pixel_count, int32_t taps, int32_t channels,
         const int8_t* filters, int32_t* sums) {
  for (int32_t t = 0; t < taps; ++t, pixels += kTilePixels) {
    for (int32_t c = 0; c < channels; c += kQuad, filters += kQuadBytes) {
      for (int32_t p = 0; p < pixel_count; ++p) {
        const int32_t left = channels - c;
        const uint32_t quad =
            left < kQuad ? LoadPartialQuad(pixels[p] + c, left) : LoadQuad(pixels[p] + c);
        int16_t x[kQuad];
        for (int i = 0; i < kQuad; ++i) x[i] = static_cast<int16_t>((quad >> (8 * i)) & 255);
        int32_t* sum = sums + p * kBlockChannels;
        for (int k = 0; k < kBlockChannels; ++k) {
          const int8_t* w = filters + k * kQuad;
          sum[k] += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
        }
      }
    }
  }
}

#endif

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

void Finish(const int32_t* sums, int32_t pixel_count, int32_t channels, const float* multiplier,
            const Rounding& rounding, uint8_t* out, ptrdiff_t pixel_bytes) {
  for (int32_t p = 0; p < pixel_count; ++p, sums += kBlockChannels, out += pixel_bytes) {
    if (channels == kBlockChannels) {
      Requantise(sums, multiplier, kBlockChannels, rounding, out);
    } else {
      Requantise(sums, multiplier, channels, rounding, out);
    }
  }
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
const Loops THINMAPS_LOOPS = {Dot,   Finish, Depthwise, Largest,  Accumulate,
                              Scale, Add,    Multiply,  Quantise, Blend};

}  // namespace thinmaps
