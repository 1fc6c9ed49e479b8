// SPDX-License-Identifier: Apache-2.0
// The most products of bytes that a core makes a second: chains of multiply-and-add in registers,
// enough of them to hide their latency, without a load or a store. kernels.py compiles and times it.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kChains = 12;

// Keeps a vector's value unknown to the compiler.
#define OPAQUE(vector) asm volatile("" : "+v"(vector))

}  // namespace

// One vpdpbusd of 512 bits makes 64 products. Returns the products made.
extern "C" __attribute__((target("avx512f,avx512vnni"))) int64_t avx512(int64_t rounds) {
  __m512i sums[kChains] = {};
  __m512i x = _mm512_set1_epi32(0x01020304);
  OPAQUE(x);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, x);
#pragma GCC unroll 12
    for (__m512i& sum : sums) OPAQUE(sum);
  }
  return rounds * kChains * 64;
}

// One vpmaddwd of 256 bits makes 16 products of bytes widened to 16 bits.
extern "C" __attribute__((target("avx2"))) int64_t avx2(int64_t rounds) {
  __m256i sums[kChains] = {};
  __m256i x = _mm256_set1_epi32(0x00010002);
  OPAQUE(x);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      OPAQUE(x);  // or one product would do for all
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, x));
    }
#pragma GCC unroll 12
    for (__m256i& sum : sums) OPAQUE(sum);
  }
  return rounds * kChains * 16;
}

// One AND, one count and one addition of 512 bits; returns the bits that were counted.
extern "C" __attribute__((target("avx512f,avx512vpopcntdq"))) int64_t populations_avx512(
    int64_t rounds) {
  __m512i sums[kChains] = {};
  __m512i x = _mm512_set1_epi32(0x01020304);
  __m512i mask = _mm512_set1_epi32(0x04030201);
  OPAQUE(mask);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      OPAQUE(x);  // or one count would do for all
      sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_and_si512(mask, x)));
    }
#pragma GCC unroll 12
    for (__m512i& sum : sums) OPAQUE(sum);
  }
  return rounds * kChains * 512;
}

// The same of 256 bits, counted by looking up half bytes and added up in bytes.
extern "C" __attribute__((target("avx2"))) int64_t populations_avx2(int64_t rounds) {
  constexpr int kFew = 6;  // chains beside the table, for there are 16 registers
  __m256i sums[kFew] = {};
  __m256i x = _mm256_set1_epi32(0x01020304);
  const __m256i table = _mm256_set1_epi64x(0x0302020102010100);
  const __m256i low = _mm256_set1_epi8(15);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 6
    for (__m256i& sum : sums) {
      OPAQUE(x);
      const __m256i set = _mm256_and_si256(x, table);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(set, 4), low);
      const __m256i counts =
          _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(set, low)),
                          _mm256_shuffle_epi8(table, high));
      sum = _mm256_add_epi8(sum, counts);
    }
#pragma GCC unroll 6
    for (__m256i& sum : sums) OPAQUE(sum);
  }
  return rounds * kFew * 256;
}
