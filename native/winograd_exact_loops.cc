// SPDX-License-Identifier: Apache-2.0
// The inner loops of winograd_exact_loops.h, compiled once per instruction set like conv_row.cc:
// the build defines THINMAPS_WINOGRAD_EXACT_LOOPS, the name of the table.
//
// The transforms are those that winograd/emit.py generates, on vectors of integers; multiplications
// by 2, 4 and 8 compile to shifts. All integers are unsigned and wrap: no order of sums matters.
#include "winograd_exact_loops.h"

#include "intrinsics.h"
#include "rounding.h"
#include "unroll.h"
#include "winograd_transforms.h"

#if defined(__AVX2__)
#include "rounding_avx2.h"
#endif

namespace thinmaps {
namespace {

#if defined(__AVX512BW__)
constexpr int32_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int32_t kVectorBytes = 32;
#else
constexpr int32_t kVectorBytes = 16;
#endif

// Integers side by side, as many as a vector of this instruction set holds.
template <typename T>
struct Integers {
  static constexpr int32_t kLanes = kVectorBytes / static_cast<int32_t>(sizeof(T));
  typedef T Lanes __attribute__((vector_size(kVectorBytes)));
  typedef T Anywhere __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  Lanes lanes;

  static Integers Broadcast(float x) { return {Lanes{} + static_cast<T>(x)}; }
  template <typename Vector>
  static Integers Of(Vector vector) {
    return {reinterpret_cast<Lanes>(vector)};
  }
  // Not by memcpy, which g++ 12 does in halves.
  static Integers Load(const void* x) { return {*static_cast<const Anywhere*>(x)}; }
  void Store(void* x) const { *static_cast<Anywhere*>(x) = lanes; }
  friend Integers operator+(Integers a, Integers b) { return {a.lanes + b.lanes}; }
  friend Integers operator-(Integers a, Integers b) { return {a.lanes - b.lanes}; }
  friend Integers operator*(Integers a, Integers b) { return {a.lanes * b.lanes}; }
};
using Shorts = Integers<uint16_t>;
using Words = Integers<uint32_t>;

#if defined(__AVX512BW__)

inline Shorts Widen(const uint8_t* bytes) {
  const auto* from = reinterpret_cast<const __m256i*>(bytes);
  return Shorts::Of(_mm512_cvtepu8_epi16(_mm256_loadu_si256(from)));
}

// `count` bytes, and zeros.
inline Shorts WidenFirst(const uint8_t* bytes, int32_t count) {
  const auto first = static_cast<__mmask32>((uint32_t{1} << count) - 1);
  return Shorts::Of(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(first, bytes)));
}

#else

inline Shorts Widen(const uint8_t* bytes) {
#if defined(__AVX2__)
  const auto* from = reinterpret_cast<const __m128i*>(bytes);
  return Shorts::Of(_mm256_cvtepu8_epi16(_mm_loadu_si128(from)));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes / 2), aligned(1), may_alias));
  return {__builtin_convertvector(*reinterpret_cast<const Bytes*>(bytes), Shorts::Lanes)};
#endif
}

// `count` bytes, and zeros.
inline Shorts WidenFirst(const uint8_t* bytes, int32_t count) {
  uint8_t first[Shorts::kLanes] = {};
  __builtin_memcpy(first, bytes, static_cast<size_t>(count));
  return Widen(first);
}

#endif

template <typename Load>
inline void TransformChannels(Load load, int16_t* points, ptrdiff_t whole) {
  Shorts columns[kTilePoints];
  for (int32_t j = 0; j < kTileInputs; ++j) {
    Shorts pixels[kTileInputs];
    THINMAPS_UNROLL
    for (int32_t i = 0; i < kTileInputs; ++i) pixels[i] = load(i * kTileInputs + j);
    F4x3Points::InputTransform(pixels, 1, columns + j, kTileInputs);
  }
  for (int32_t i = 0; i < kTileInputs; ++i) {
    Shorts row[kTileInputs];
    F4x3Points::InputTransform(columns + i * kTileInputs, 1, row, 1);
    THINMAPS_UNROLL
    for (int32_t j = 0; j < kTileInputs; ++j) row[j].Store(points + (i * kTileInputs + j) * whole);
  }
}

void Transform(const TileToTransform& tile) {
  const ptrdiff_t whole = (tile.channels + kPointRun - 1) / kPointRun * kPointRun;
  for (int32_t c = 0; c < tile.channels; c += Shorts::kLanes) {
    const int32_t left = tile.channels - c;
    if (left >= Shorts::kLanes) {
      TransformChannels([&](int32_t p) { return Widen(tile.pixels[p] + c); }, tile.points + c,
                        whole);
    } else {
      TransformChannels([&](int32_t p) { return WidenFirst(tile.pixels[p] + c, left); },
                        tile.points + c, whole);
    }
  }
}

inline int32_t LoadPair(const int16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return pair;
}

// Sums += products of pairs of 16 bits, the pair of a tile with those of as many outputs as a
// vector has lanes.
#if defined(__AVX512VNNI__)

struct Sums {
  static constexpr int32_t kOutputs = 16;
  __m512i sums;

  struct Filters {
    __m512i pairs;
    explicit Filters(const int16_t* filters) : pairs(_mm512_loadu_si512(filters)) {}
  };
  struct Points {
    __m512i pairs;
    explicit Points(const int16_t* points) : pairs(_mm512_set1_epi32(LoadPair(points))) {}
  };

  void Clear() { sums = _mm512_setzero_si512(); }
  void Add(const Points& points, const Filters& filters) {
    // In place: with the intrinsic, g++ 12 moves sums about and runs out of registers.
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(points.pairs), "v"(filters.pairs));
  }
  void Store(int32_t* to) const { _mm512_storeu_si512(to, sums); }
};

#elif defined(__AVX2__)

struct Sums {
  static constexpr int32_t kOutputs = 8;
  __m256i sums;

  struct Filters {
    __m256i pairs;
    explicit Filters(const int16_t* filters)
        : pairs(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(filters))) {}
  };
  struct Points {
    __m256i pairs;
    explicit Points(const int16_t* points) : pairs(_mm256_set1_epi32(LoadPair(points))) {}
  };

  void Clear() { sums = _mm256_setzero_si256(); }
  void Add(const Points& points, const Filters& filters) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(points.pairs, filters.pairs));
  }
  void Store(int32_t* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }
};

#elif defined(__SSE4_1__)

struct Sums {
  static constexpr int32_t kOutputs = 4;
  __m128i sums;

  struct Filters {
    __m128i pairs;
    explicit Filters(const int16_t* filters)
        : pairs(_mm_loadu_si128(reinterpret_cast<const __m128i*>(filters))) {}
  };
  struct Points {
    __m128i pairs;
    explicit Points(const int16_t* points) : pairs(_mm_set1_epi32(LoadPair(points))) {}
  };

  void Clear() { sums = _mm_setzero_si128(); }
  void Add(const Points& points, const Filters& filters) {
    sums = _mm_add_epi32(sums, _mm_madd_epi16(points.pairs, filters.pairs));
  }
  void Store(int32_t* to) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums); }
};

#else

struct Sums {
  static constexpr int32_t kOutputs = 4;
  uint32_t sums[kOutputs];

  struct Filters {
    const int16_t* pairs;
    explicit Filters(const int16_t* filters) : pairs(filters) {}
  };
  struct Points {
    int32_t first, second;
    explicit Points(const int16_t* points) : first(points[0]), second(points[1]) {}
  };

  void Clear() {
    for (uint32_t& sum : sums) sum = 0;
  }
  void Add(const Points& points, const Filters& filters) {
    for (int32_t k = 0; k < kOutputs; ++k) {
      const int32_t first = points.first * filters.pairs[kPair * k];
      const int32_t second = points.second * filters.pairs[kPair * k + 1];
      sums[k] += static_cast<uint32_t>(first) + static_cast<uint32_t>(second);
    }
  }
  void Store(int32_t* to) const { __builtin_memcpy(to, sums, sizeof sums); }
};

#endif

// As many sums at once as registers hold: kMostTiles tiles by a block, or by a panel's blocks.
constexpr int32_t kBlockVectors = kBlockChannels / Sums::kOutputs;
#if defined(__AVX512VNNI__)
constexpr int32_t kMostTiles = 6;
constexpr int32_t kMostBlocks = kPanelBlocks;
#elif defined(__AVX2__)
constexpr int32_t kMostTiles = 6;
constexpr int32_t kMostBlocks = 1;
#else
constexpr int32_t kMostTiles = 2;
constexpr int32_t kMostBlocks = 1;
#endif

template <int kTiles, int kBlocks>
void MultiplyTiles(const PointProduct& product, int32_t first, int32_t block) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  Sums sums[kTiles][kVectors];
  THINMAPS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    THINMAPS_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[t][v].Clear();
  }
  const int16_t* points = product.points + first * product.tile_points;
  constexpr int kStep = kBlockChannels * kPair;
  const ptrdiff_t block_filters = BlockFilters(product.pairs);
  const int16_t* filters = product.filters + block * block_filters;
  for (int32_t pair = 0; pair < product.pairs; ++pair, points += kPair, filters += kStep) {
    THINMAPS_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const Sums::Points x(points + t * product.tile_points);
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const int16_t* of_block = filters + v / kBlockVectors * block_filters;
        const int32_t vector = v % kBlockVectors * Sums::kOutputs * kPair;
        sums[t][v].Add(x, Sums::Filters(of_block + vector));
      }
    }
  }
  int32_t* to = product.sums + first * product.tile_sums + block * kBlockChannels;
  THINMAPS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    THINMAPS_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      sums[t][v].Store(to + t * product.tile_sums + v * Sums::kOutputs);
    }
  }
}

// As many tiles as there are, at most kTiles.
template <int kTiles, int kBlocks>
void MultiplyFitting(const PointProduct& product, int32_t first, int32_t block) {
  if constexpr (kTiles > 1) {
    if (product.tiles - first < kTiles) {
      return MultiplyFitting<kTiles - 1, kBlocks>(product, first, block);
    }
  }
  MultiplyTiles<kTiles, kBlocks>(product, first, block);
}

// As many blocks as there are, at most kBlocks.
template <int kBlocks>
void MultiplyBlocks(const PointProduct& product, int32_t block) {
  if constexpr (kBlocks > 1) {
    if (product.blocks - block < kBlocks) return MultiplyBlocks<kBlocks - 1>(product, block);
  }
  for (int32_t first = 0; first < product.tiles; first += kMostTiles) {
    MultiplyFitting<kMostTiles, kBlocks>(product, first, block);
  }
}

void Multiply(const PointProduct& product) {
  for (int32_t block = 0; block < product.blocks; block += kMostBlocks) {
    MultiplyBlocks<kMostBlocks>(product, block);
  }
}

constexpr int32_t kOutputs = kTileOutputs * kTileOutputs;

// made[i * kBlockChannels + k] = sums of the direct convolution for lanes k of output i.
inline void TransformSums(const TileToFinish& tile, int32_t k, int32_t* made) {
  const Words infinity = Words::Broadcast(kInfinityScale);
  Words rows[kTileOutputs * kTileInputs];
  for (int32_t j = 0; j < kTileInputs; ++j) {
    Words points[kTileInputs];
    THINMAPS_UNROLL
    for (int32_t i = 0; i < kTileInputs; ++i) {
      points[i] = Words::Load(tile.sums + (i * kTileInputs + j) * tile.point_sums + k);
    }
    points[kTileInputs - 1] = points[kTileInputs - 1] * infinity;
    F4x3Points::OutputTransform(points, 1, rows + j, kTileInputs);
  }
  const Words inverse = Words{Words::Lanes{} + kInverse};
  const Words offset = Words::Load(tile.offset + k);
  const Words low = Words::Load(tile.low + k);
  for (int32_t i = 0; i < kTileOutputs; ++i) {
    Words* row = rows + i * kTileInputs;
    row[kTileInputs - 1] = row[kTileInputs - 1] * infinity;
    Words outputs[kTileOutputs];
    F4x3Points::OutputTransform(row, 1, outputs, 1);
    THINMAPS_UNROLL
    for (int32_t j = 0; j < kTileOutputs; ++j) {
      const Words scaled = outputs[j] * inverse + offset;
      const Words sum = Words{scaled.lanes >> kScaleBits} + low;
      sum.Store(made + (i * kTileOutputs + j) * kBlockChannels + k);
    }
  }
}

// 16 sums become bytes: rne(clamp(fl(sum) * multiplier)) + after.
#if defined(__AVX512BW__)

struct Finisher {
  __m512 multiplier, low, high;
  __m512i after;
  explicit Finisher(const TileToFinish& tile)
      : multiplier(_mm512_loadu_ps(tile.multiplier)),
        low(_mm512_set1_ps(tile.rounding.low)),
        high(_mm512_set1_ps(tile.rounding.high)),
        after(_mm512_set1_epi32(tile.rounding.after)) {}

  void operator()(const int32_t* sums, uint8_t* bytes) const {
    const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), multiplier);
    const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
    const __m512i rounded = _mm512_cvt_roundps_epi32(clamped, 8);  // to nearest, no exceptions
    const __m128i made = _mm512_cvtepi32_epi8(_mm512_add_epi32(rounded, after));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), made);
  }
};

#elif defined(__AVX2__)

struct Finisher {
  VectorRounding rounding;
  __m256 multiplier[2];
  explicit Finisher(const TileToFinish& tile)
      : rounding(tile.rounding),
        multiplier{_mm256_loadu_ps(tile.multiplier), _mm256_loadu_ps(tile.multiplier + 8)} {}

  void operator()(const int32_t* sums, uint8_t* bytes) const {
    const auto* from = reinterpret_cast<const __m256i*>(sums);
    const __m256i both[2] = {from[0], from[1]};
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), rounding.Bytes(both, multiplier));
  }
};

#else

struct Finisher {
  const TileToFinish& tile;
  explicit Finisher(const TileToFinish& finished) : tile(finished) {}

  void operator()(const int32_t* sums, uint8_t* bytes) const {
    const Rounding rounding = tile.rounding;
    const float* multiplier = tile.multiplier;
#if !defined(__clang__)
#pragma GCC unroll 1  // unrolled, g++ would not see a vector in it
#endif
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      bytes[k] = RoundToByte(static_cast<float>(sums[k]) * multiplier[k], rounding);
    }
  }
};

#endif

void Finish(const TileToFinish& tile) {
  alignas(64) int32_t made[kOutputs * kBlockChannels];
  for (int32_t k = 0; k < kBlockChannels; k += Words::kLanes) TransformSums(tile, k, made);
  const Finisher finisher(tile);
  for (int32_t i = 0; i < tile.rows; ++i) {
    const int32_t* sums = made + i * kTileOutputs * kBlockChannels;
    uint8_t* out = tile.out[i];
    for (int32_t j = 0; j < tile.columns; ++j, sums += kBlockChannels, out += tile.out_step) {
      if (tile.channels == kBlockChannels) {
        finisher(sums, out);
      } else {
        uint8_t bytes[kBlockChannels];
        finisher(sums, bytes);
        __builtin_memcpy(out, bytes, static_cast<size_t>(tile.channels));
      }
    }
  }
}

}  // namespace

extern const WinogradExactLoops THINMAPS_WINOGRAD_EXACT_LOOPS;
const WinogradExactLoops THINMAPS_WINOGRAD_EXACT_LOOPS = {Transform, Multiply, Finish};

}  // namespace thinmaps
