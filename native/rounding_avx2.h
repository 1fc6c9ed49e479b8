// SPDX-License-Identifier: Apache-2.0
// How convolutions round 16 sums at a time with AVX2. For files that are compiled per instruction
// set: internal linkage, intrinsics only.
#pragma once

#include "intrinsics.h"
#include "loops.h"

namespace thinmaps {
namespace {

// What turns sums into bytes, in registers while a row runs.
struct VectorRounding {
  __m256 low, high;
  __m256i after;

  explicit VectorRounding(const Rounding& rounding)
      : low(_mm256_set1_ps(rounding.low)),
        high(_mm256_set1_ps(rounding.high)),
        after(_mm256_set1_epi16(static_cast<int16_t>(rounding.after))) {}

  // rne(clamp(fl(sum) * multiplier)); an engine that runs rounds to nearest, ties to even.
  __m256i Whole(__m256i sums, __m256 multiplier) const {
    const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), multiplier);
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, low), high));
  }

  // byte = Whole + after; low and high leave a byte when `after` is added.
  __m128i Bytes(const __m256i* sums, const __m256* multiplier) const {
    const __m256i whole =
        _mm256_packs_epi32(Whole(sums[0], multiplier[0]), Whole(sums[1], multiplier[1]));
    // Packing took 4 of each vector in turn.
    const __m256i ordered = _mm256_permute4x64_epi64(whole, _MM_SHUFFLE(3, 1, 2, 0));
    const __m256i shifted = _mm256_add_epi16(ordered, after);
    return _mm_packus_epi16(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
  }
};

}  // namespace
}  // namespace thinmaps
