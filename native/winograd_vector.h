// SPDX-License-Identifier: Apache-2.0
// Floats side by side, for files that are compiled per instruction set: internal linkage.
#pragma once

#include <cstdint>

#include "intrinsics.h"

namespace thinmaps {
namespace {

#if defined(__AVX512F__)

constexpr int32_t kLanes = 16;
constexpr int32_t kPanelVectors = 4;

struct Vec {
  __m512 floats;

  static __mmask16 First(int32_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Vec Broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Vec Load(const float* x) { return {_mm512_loadu_ps(x)}; }
  static Vec LoadFirst(const float* x, int32_t count) {
    return {_mm512_maskz_loadu_ps(First(count), x)};
  }
  void Store(float* x) const { _mm512_storeu_ps(x, floats); }
  void StoreFirst(float* x, int32_t count) const { _mm512_mask_storeu_ps(x, First(count), floats); }
  void AddProduct(Vec a, Vec b) { floats = _mm512_fmadd_ps(a.floats, b.floats, floats); }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.floats, b.floats)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.floats, b.floats)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.floats, b.floats)}; }
  Vec Positive() const { return {_mm512_max_ps(_mm512_setzero_ps(), floats)}; }
};

#elif defined(__AVX2__)

constexpr int32_t kLanes = 8;
constexpr int32_t kPanelVectors = 2;

struct Vec {
  __m256 floats;

  static __m256i First(int32_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  }
  static Vec Broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static Vec Load(const float* x) { return {_mm256_loadu_ps(x)}; }
  static Vec LoadFirst(const float* x, int32_t count) {
    return {_mm256_maskload_ps(x, First(count))};
  }
  void Store(float* x) const { _mm256_storeu_ps(x, floats); }
  void StoreFirst(float* x, int32_t count) const { _mm256_maskstore_ps(x, First(count), floats); }
  void AddProduct(Vec a, Vec b) { floats = _mm256_fmadd_ps(a.floats, b.floats, floats); }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.floats, b.floats)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.floats, b.floats)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.floats, b.floats)}; }
  Vec Positive() const { return {_mm256_max_ps(_mm256_setzero_ps(), floats)}; }
};

#else

constexpr int32_t kLanes = 4;
constexpr int32_t kPanelVectors = 2;

// What the compiler makes of vectors of 16 bytes: SSE, NEON, or plain floats.
struct Vec {
  typedef float Floats __attribute__((vector_size(16)));
  Floats floats;

  static Vec Broadcast(float x) { return {Floats{x, x, x, x}}; }
  static Vec Load(const float* x) { return {Floats{x[0], x[1], x[2], x[3]}}; }
  static Vec LoadFirst(const float* x, int32_t count) {
    Floats floats = {};
    for (int32_t i = 0; i < count; ++i) floats[i] = x[i];
    return {floats};
  }
  void Store(float* x) const { StoreFirst(x, kLanes); }
  void StoreFirst(float* x, int32_t count) const {
    for (int32_t i = 0; i < count; ++i) x[i] = floats[i];
  }
  void AddProduct(Vec a, Vec b) { floats += a.floats * b.floats; }
  friend Vec operator+(Vec a, Vec b) { return {a.floats + b.floats}; }
  friend Vec operator-(Vec a, Vec b) { return {a.floats - b.floats}; }
  friend Vec operator*(Vec a, Vec b) { return {a.floats * b.floats}; }
  // A NaN passes, as it does in the vectors of x86 whose second operand it is.
  Vec Positive() const {
    Floats positive = floats;
    for (int32_t i = 0; i < kLanes; ++i) positive[i] = floats[i] < 0 ? 0 : floats[i];
    return {positive};
  }
};

#endif

}  // namespace
}  // namespace thinmaps
