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
