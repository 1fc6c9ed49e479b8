// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution, vectors along the channels of a pixel; part of loops.cc.
//
// Cost per core at 3.5 GHz: about 50 (AVX-512), 20 (AVX2) or 4 billion products a second; never
// measured on ARM.
#pragma once

#include "loops.h"
#include "rounding.h"

#if defined(__SSE4_1__)
#include "intrinsics.h"
#endif
#if defined(__AVX2__)
#include "rounding_avx2.h"
#elif defined(THINMAPS_NEON)
#include "rounding_neon.h"
#endif

namespace thinmaps {
namespace {

#if defined(__AVX512VNNI__)

// Filters are packed [block of 64 channels][group of 4 taps][j][16][4], bias and multiplier
// [block][j][16]: place 4 L + i of vector j is channel 16 L + 4 j + i, the order in which
// interleaving bytes leaves 4 taps of 64 channels, and packing the sums restores.
constexpr int32_t kDepthwiseBlock = 64;
constexpr int kGroupTaps = 4;
constexpr int kVectors = 4;

// What turns sums into bytes, in registers while a row runs.
struct BlockRounding {
  __m512 low, high;
  __m512i after;

  explicit BlockRounding(const Rounding& rounding)
      : low(_mm512_set1_ps(rounding.low)),
        high(_mm512_set1_ps(rounding.high)),
        after(_mm512_set1_epi16(static_cast<int16_t>(rounding.after))) {}

  // byte = rne(clamp(fl(sum) * multiplier)) + after; low and high leave a byte when after is added.
  __m512i Bytes(const __m512i* sums, const __m512* multiplier) const {
    __m512i rounded[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[j]), multiplier[j]);
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
      rounded[j] = _mm512_cvt_roundps_epi32(clamped, 8);  // to nearest, no exceptions
    }
    const __m512i front = _mm512_add_epi16(_mm512_packs_epi32(rounded[0], rounded[1]), after);
    const __m512i back = _mm512_add_epi16(_mm512_packs_epi32(rounded[2], rounded[3]), after);
    return _mm512_packus_epi16(front, back);
  }
};

// sums[j] += 4 taps a, b, c, d of 64 channels, byte by byte interleaved.
inline void AddGroup(__m512i a, __m512i b, __m512i c, __m512i d, const __m512i* filters,
                     __m512i* sums) {
  const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
  const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
  const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
  sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_unpacklo_epi16(ab_low, cd_low), filters[0]);
  sums[1] = _mm512_dpbusd_epi32(sums[1], _mm512_unpackhi_epi16(ab_low, cd_low), filters[1]);
  sums[2] = _mm512_dpbusd_epi32(sums[2], _mm512_unpacklo_epi16(ab_high, cd_high), filters[2]);
  sums[3] = _mm512_dpbusd_epi32(sums[3], _mm512_unpackhi_epi16(ab_high, cd_high), filters[3]);
}

// One block of channels. kTaps is the number of taps, or 0 where only the row knows.
template <int kTaps>
void DepthwiseBlock(const DepthwiseRow& row, int32_t block) {
  const int32_t groups = ((kTaps > 0 ? kTaps : row.tap_count) + kGroupTaps - 1) / kGroupTaps;
  const ptrdiff_t first = block * kDepthwiseBlock;
  const ptrdiff_t left = row.channels - first;
  const __mmask64 mask = ~uint64_t{0} >> (left < kDepthwiseBlock ? kDepthwiseBlock - left : 0);
  const auto* filters = reinterpret_cast<const __m512i*>(row.filters + first * groups * kGroupTaps);
  const auto* bias = reinterpret_cast<const __m512i*>(row.bias + first);
  const auto* multiplier = reinterpret_cast<const __m512*>(row.multiplier + first);
  const BlockRounding rounding(row.rounding);
  const uint8_t* const* taps = row.taps;
  const ptrdiff_t step = row.step;
  const ptrdiff_t out_step = row.out_step;
  const __m512i none = _mm512_setzero_si512();
  uint8_t* out = row.out + first;
  ptrdiff_t place = first;
  for (int32_t p = row.pixels; p > 0; --p, place += step, out += out_step) {
    const auto tap = [&](int32_t t) { return _mm512_maskz_loadu_epi8(mask, taps[t] + place); };
    const auto real = [&](int32_t t) { return kTaps == 0 || t < kTaps ? tap(t) : none; };
    __m512i sums[kVectors] = {bias[0], bias[1], bias[2], bias[3]};
    for (int32_t g = 0; g < groups; ++g) {
      const int32_t t = g * kGroupTaps;
      AddGroup(tap(t), real(t + 1), real(t + 2), real(t + 3), filters + g * kVectors, sums);
    }
    _mm512_mask_storeu_epi8(out, mask, rounding.Bytes(sums, multiplier));
  }
}

void Depthwise(const DepthwiseRow& row) {
  for (int32_t block = 0; block * kDepthwiseBlock < row.channels; ++block) {
    if (row.tap_count == 9) {
      DepthwiseBlock<9>(row, block);
    } else {
      DepthwiseBlock<0>(row, block);
    }
  }
}

#else

constexpr int32_t kDepthwiseBlock = 0;

inline void Requantise(const int32_t* sums, const float* multiplier, int32_t count,
                       const Rounding& rounding, uint8_t* out) {
  const Rounding r = rounding;
  for (int32_t i = 0; i < count; ++i) {
    out[i] = RoundToByte(static_cast<float>(sums[i]) * multiplier[i], r);
  }
}

[[maybe_unused]] constexpr int32_t kMostBlockTaps = 64;  // whose filters are widened on the stack

#if defined(__AVX2__)

inline __m128i LoadSixteen(const void* bytes) {
  return _mm_loadu_si128(static_cast<const __m128i*>(bytes));
}

// Filters of a block of 16 channels, widened once for a row: those of two taps side by side in 16
// bits, as vpmaddwd adds their products.
struct PairedFilters {
  alignas(32) __m256i pairs[kMostBlockTaps / 2][2];

  PairedFilters(const DepthwiseRow& row, int32_t first) {
    for (int32_t t = 0; t < row.tap_count; t += 2) {
      const int8_t* filters = row.filters + t * row.channels + first;
      const __m128i a = LoadSixteen(filters);
      const __m128i b =
          t + 1 < row.tap_count ? LoadSixteen(filters + row.channels) : _mm_setzero_si128();
      pairs[t / 2][0] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
      pairs[t / 2][1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
    }
  }
};

// 16 channels from `first` on of all pixels. Past the last tap, taps may be read once more.
void DepthwiseBlock(const DepthwiseRow& row, int32_t first) {
  const PairedFilters filters(row, first);
  const VectorRounding rounding(row.rounding);
  const auto* bias = reinterpret_cast<const __m256i*>(row.bias + first);
  const __m256i biases[2] = {_mm256_loadu_si256(bias), _mm256_loadu_si256(bias + 1)};
  const __m256 multiplier[2] = {_mm256_loadu_ps(row.multiplier + first),
                                _mm256_loadu_ps(row.multiplier + first + 8)};
  const uint8_t* const* taps = row.taps;
  const int32_t tap_count = row.tap_count;
  const ptrdiff_t step = row.step;
  const ptrdiff_t out_step = row.out_step;
  uint8_t* out = row.out + first;
  ptrdiff_t place = first;
  for (int32_t p = row.pixels; p > 0; --p, place += step, out += out_step) {
    __m256i sums[2] = {biases[0], biases[1]};
    for (int32_t t = 0; t < tap_count; t += 2) {
      const __m128i a = LoadSixteen(taps[t] + place);
      const __m128i b = LoadSixteen(taps[t + 1] + place);
      const __m256i low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
      const __m256i high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
      sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, filters.pairs[t / 2][0]));
      sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, filters.pairs[t / 2][1]));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), rounding.Bytes(sums, multiplier));
  }
}

#elif defined(THINMAPS_NEON)

// Filters of a block of 16 channels, widened once for a row.
struct WideFilters {
  int16x8_t taps[kMostBlockTaps][2];

  WideFilters(const DepthwiseRow& row, int32_t first) {
    for (int32_t t = 0; t < row.tap_count; ++t) {
      const int8x16_t filters = vld1q_s8(row.filters + t * row.channels + first);
      taps[t][0] = vmovl_s8(vget_low_s8(filters));
      taps[t][1] = vmovl_high_s8(filters);
    }
  }
};

// sums[0 .. 1] += products of 8 channels.
inline void AddEight(uint8x8_t bytes, int16x8_t filters, int32x4_t* sums) {
  const int16x8_t x = vreinterpretq_s16_u16(vmovl_u8(bytes));
  sums[0] = vmlal_s16(sums[0], vget_low_s16(x), vget_low_s16(filters));
  sums[1] = vmlal_high_s16(sums[1], x, filters);
}

// 16 channels from `first` on of all pixels.
void DepthwiseBlock(const DepthwiseRow& row, int32_t first) {
  const WideFilters filters(row, first);
  const VectorRounding rounding(row.rounding);
  const int32x4x4_t bias = vld1q_s32_x4(row.bias + first);
  const float32x4x4_t multiplier = vld1q_f32_x4(row.multiplier + first);
  const uint8_t* const* taps = row.taps;
  uint8_t* out = row.out + first;
  ptrdiff_t place = first;
  for (int32_t p = row.pixels; p > 0; --p, place += row.step, out += row.out_step) {
    int32x4x4_t sums = bias;
    for (int32_t t = 0; t < row.tap_count; ++t) {
      const uint8x16_t x = vld1q_u8(taps[t] + place);
      AddEight(vget_low_u8(x), filters.taps[t][0], sums.val);
      AddEight(vget_high_u8(x), filters.taps[t][1], sums.val + 2);
    }
    vst1q_u8(out, rounding.Bytes(sums.val, multiplier.val));
  }
}

#endif

#if defined(__AVX2__) || defined(THINMAPS_NEON)

inline bool DepthwiseInBlocks(const DepthwiseRow& row) {
  if (row.channels < kBlockChannels || row.tap_count > kMostBlockTaps) return false;
  // The last block ends with the last channel, and may do some channels twice.
  const int32_t last = row.channels - kBlockChannels;
  for (int32_t first = 0; first < last; first += kBlockChannels) DepthwiseBlock(row, first);
  DepthwiseBlock(row, last);
  return true;
}

#else

inline bool DepthwiseInBlocks(const DepthwiseRow&) { return false; }

#endif

// Vectors in the compiler's portable notation: it splits them where the registers are shorter.
using Bytes = uint8_t __attribute__((vector_size(kBlockChannels)));
using SignedBytes = int8_t __attribute__((vector_size(kBlockChannels)));
using Halves = int16_t __attribute__((vector_size(2 * kBlockChannels)));
using Words = int32_t __attribute__((vector_size(4 * kBlockChannels)));

// Sums of one block of channels from `first` on. A product of a byte and a filter value fits 16
// bits: 255 * 128 < 2^15.
inline void BlockSums(const DepthwiseRow& row, ptrdiff_t place, int32_t first, int32_t* sums) {
  Words sum;
  __builtin_memcpy(&sum, row.bias + first, sizeof sum);
  const int8_t* filters = row.filters + first;
  for (int32_t t = 0; t < row.tap_count; ++t, filters += row.channels) {
    Bytes x;
    SignedBytes w;
    __builtin_memcpy(&x, row.taps[t] + place + first, sizeof x);
    __builtin_memcpy(&w, filters, sizeof w);
    const Halves product = __builtin_convertvector(x, Halves) * __builtin_convertvector(w, Halves);
    sum += __builtin_convertvector(product, Words);
  }
  __builtin_memcpy(sums, &sum, sizeof sum);
}

void DepthwisePixel(const DepthwiseRow& row, ptrdiff_t place, uint8_t* out) {
  alignas(64) int32_t sums[kBlockChannels];
  const int32_t channels = row.channels;
  if (channels >= kBlockChannels) {
    // The last block ends with the last channel, and may do some channels twice.
    for (int32_t block = 0; block < channels; block += kBlockChannels) {
      const int32_t last = channels - kBlockChannels;
      const int32_t first = block < last ? block : last;
      BlockSums(row, place, first, sums);
      Requantise(sums, row.multiplier + first, kBlockChannels, row.rounding, out + first);
    }
    return;
  }
  for (int32_t c = 0; c < channels; ++c) {
    sums[c] = row.bias[c];
    for (int32_t t = 0; t < row.tap_count; ++t) {
      sums[c] += row.taps[t][place + c] * row.filters[t * channels + c];
    }
  }
  Requantise(sums, row.multiplier, channels, row.rounding, out);
}

void Depthwise(const DepthwiseRow& row) {
  if (DepthwiseInBlocks(row)) return;
  for (int32_t p = 0; p < row.pixels; ++p) {
    DepthwisePixel(row, p * row.step, row.out + p * row.out_step);
  }
}

#endif

}  // namespace
}  // namespace thinmaps
