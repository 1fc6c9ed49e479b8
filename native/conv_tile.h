// SPDX-License-Identifier: Apache-2.0
// The sums of a tile, kPixels pixels by kBlocks blocks of 16 output channels, in registers.
//
// Multiply, for piece i of a row: sums[p][b][k] += sum over its bytes j of x[p * step + j] *
// filters[b][j / 4][k][j % 4]. For files that are compiled per instruction set: internal linkage,
// intrinsics only. Filters are zero past `bytes`, so that what is read there does not count.
//
// Cost per core at 3.5 GHz, at best: AMX 3700, VNNI 430, AVX2 110 billion products a second.
#pragma once

#include "conv_row.h"
#include "load_four.h"
#include "unroll.h"

#if defined(__SSE4_1__)
#include "intrinsics.h"
#endif

namespace thinmaps {
namespace {

#if !defined(THINMAPS_NEON)
constexpr int32_t kShift = 0;  // bytes are multiplied as they are
#endif

#if defined(THINMAPS_AMX)

// g++ 12's intrinsics do not say that they touch memory; these do.
constexpr int32_t kWidePixels = 32;
constexpr int32_t kWidePairPixels = 32;
constexpr int32_t kTileStep = 16;
constexpr int32_t kNarrowRow = 8;
constexpr int32_t kMostBlocks = 2;
constexpr bool kWholePieces = true;
constexpr bool kSortsQuads = false;
constexpr ptrdiff_t kTileRows = 16;

// What ldtilecfg reads.
struct TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

// Pixels narrower than a tile's 64 bytes make their loads touch fewer cache lines.
void StartTiles(int32_t piece_bytes) {
  TileConfiguration configuration;
  for (int tile = 4; tile < 6; ++tile) {
    configuration.bytes_per_row[tile] = static_cast<uint16_t>(piece_bytes);
    configuration.rows[tile + 2] = static_cast<uint8_t>(piece_bytes / kQuad);
  }
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}
void StopTiles() { asm volatile("tilerelease" ::); }

template <int kTile>
inline void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
inline void LoadTile(const void* rows, ptrdiff_t step) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(step), "i"(kTile) : "memory");
}
template <int kTile>
inline void StoreTile(void* rows, ptrdiff_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(step), "i"(kTile) : "memory");
}
template <int kSums, int kX, int kFilters>
inline void MultiplyTiles() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kX), "i"(kFilters));
}

inline int32_t BytesRead(const ConvRow& conv, const Piece&) { return conv.piece_bytes; }

// Tiles 0 to 3 are sums [pixels / 16][block], 4 and 5 pixels, 6 and 7 filters.
template <int kPixels, int kBlocks>
struct Tile {
  static constexpr bool kTall = kPixels == 32;
  static constexpr bool kPair = kBlocks == 2;

  void Clear() {
    ZeroTile<0>();
    if constexpr (kPair) ZeroTile<1>();
    if constexpr (kTall) ZeroTile<2>();
    if constexpr (kTall && kPair) ZeroTile<3>();
  }

  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t step) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    LoadTile<6>(filters, kPieceBytes);
    LoadTile<4>(x, step);
    MultiplyTiles<0, 4, 6>();
    if constexpr (kPair) LoadTile<7>(filters + conv.block_filters, kPieceBytes);
    if constexpr (kPair) MultiplyTiles<1, 4, 7>();
    if constexpr (kTall) LoadTile<5>(x + kTileRows * step, step);
    if constexpr (kTall) MultiplyTiles<2, 5, 6>();
    if constexpr (kTall && kPair) MultiplyTiles<3, 5, 7>();
  }

  void Store(int32_t* sums) {
    constexpr ptrdiff_t kStep = kBlocks * kBlockChannels * static_cast<ptrdiff_t>(sizeof(int32_t));
    int32_t* below = sums + kTileRows * kBlocks * kBlockChannels;
    StoreTile<0>(sums, kStep);
    if constexpr (kPair) StoreTile<1>(sums + kBlockChannels, kStep);
    if constexpr (kTall) StoreTile<2>(below, kStep);
    if constexpr (kTall && kPair) StoreTile<3>(below + kBlockChannels, kStep);
  }
};

#else

constexpr bool kWholePieces = false;

void StartTiles(int32_t) {}
void StopTiles() {}

inline int32_t BytesRead(const ConvRow&, const Piece& piece) {
  return (piece.bytes + kQuad - 1) / kQuad * kQuad;
}

#if defined(__AVX512VNNI__)

constexpr int32_t kWidePixels = 24;
constexpr int32_t kWidePairPixels = 14;
constexpr bool kSortsQuads = false;
constexpr int32_t kTileStep = 2;
constexpr int32_t kNarrowRow = 7;
constexpr int32_t kMostBlocks = 2;

// A register holds the 16 sums of a pixel and a block; a broadcast quad serves both blocks.
template <int kPixels, int kBlocks>
struct Tile {
  __m512i sum[kPixels][kBlocks];

  void Clear() {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int b = 0; b < kBlocks; ++b) sum[p][b] = _mm512_setzero_si512();
    }
  }

  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t step) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    const int32_t bytes = conv.pieces[i].bytes;
    for (int32_t j = 0; j < bytes; j += kQuad, x += kQuad, filters += kQuadBytes) {
      AddQuad(conv, filters, [=](int p) { return x + p * step; });
    }
  }

  // Pixels that lie anywhere.
  void MultiplyAt(const ConvRow& conv, int32_t i, const uint8_t* const* x) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    const int32_t bytes = conv.pieces[i].bytes;
    for (int32_t j = 0; j < bytes; j += kQuad, filters += kQuadBytes) {
      AddQuad(conv, filters, [=](int p) { return x[p] + j; });
    }
  }

  template <typename Place>
  void AddQuad(const ConvRow& conv, const int8_t* filters, Place place) {
    __m512i filter[kBlocks];
    THINMAPS_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      filter[b] = _mm512_loadu_si512(filters + b * conv.block_filters);
    }
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const __m512i quad = _mm512_set1_epi32(LoadFour(place(p)));
      THINMAPS_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        sum[p][b] = _mm512_dpbusd_epi32(sum[p][b], quad, filter[b]);
      }
    }
  }

  void Store(int32_t* sums) {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int b = 0; b < kBlocks; ++b, sums += kBlockChannels) {
        _mm512_store_si512(sums, sum[p][b]);
      }
    }
  }
};

#elif defined(__AVX2__)

constexpr int32_t kWidePixels = 6;
constexpr int32_t kWidePairPixels = 6;
constexpr int32_t kTileStep = 1;
constexpr int32_t kNarrowRow = 3;
constexpr int32_t kMostBlocks = 1;
constexpr bool kSortsQuads = true;

// Two vectors hold the 16 sums of a pixel. Quads go the ways of quad_order.h.
template <int kPixels, int kBlocks>
struct Tile {
  static constexpr int kVectors = 2;
  static constexpr ptrdiff_t kVectorBytes = 32;
  __m256i sum[kPixels][kVectors];

  void Clear() {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[p][v] = _mm256_setzero_si256();
    }
  }

  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t step) {
    const QuadOrder& order = conv.orders[i];
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    int32_t n = 0;
    for (; n < order.plain; ++n, filters += kQuadBytes) {
      AddShort(x + order.offset[n], step, filters, [](__m256i quad) { return quad; });
    }
    for (; n < order.shorts; ++n, filters += kQuadBytes) {
      const __m256i bytes = _mm256_set1_epi32(kOrderOfBytes[order.way[n]]);
      AddShort(x + order.offset[n], step, filters,
               [&](__m256i quad) { return _mm256_shuffle_epi8(quad, bytes); });
    }
    for (; n < order.quads; ++n, filters += kQuadBytes) {
      AddWidened(x + order.offset[n], step, filters);
    }
  }

  template <typename Order>
  void AddShort(const uint8_t* x, ptrdiff_t step, const int8_t* filters, Order ordered) {
    const __m256i ones = _mm256_set1_epi16(1);
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const __m256i quad = ordered(_mm256_set1_epi32(LoadFour(x + p * step)));
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const __m256i pairs = _mm256_maddubs_epi16(quad, Load(filters + v * kVectorBytes));
        sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }

  // Bytes 0 and 2, then 1 and 3, in 16 bits.
  void AddWidened(const uint8_t* x, ptrdiff_t step, const int8_t* filters) {
    const __m256i low_bytes = _mm256_set1_epi16(0xFF);
    __m256i even[kVectors];
    __m256i odd[kVectors];
    THINMAPS_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __m256i filter = Load(filters + v * kVectorBytes);
      even[v] = _mm256_srai_epi16(_mm256_slli_epi16(filter, 8), 8);
      odd[v] = _mm256_srai_epi16(filter, 8);
      // Registers are for sums.
      asm volatile("" : "+m"(even[v]), "+m"(odd[v]));
    }
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const __m256i quad = _mm256_set1_epi32(LoadFour(x + p * step));
      const __m256i x_even = _mm256_and_si256(quad, low_bytes);
      const __m256i x_odd = _mm256_srli_epi16(quad, 8);
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(x_even, even[v]));
        sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(x_odd, odd[v]));
      }
    }
  }

  static __m256i Load(const int8_t* filters) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(filters));
  }

  void Store(int32_t* sums) {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v, sums += 8) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(sums), sum[p][v]);
      }
    }
  }
};

#elif defined(THINMAPS_NEON)

}  // namespace
}  // namespace thinmaps
#include "conv_tile_neon.h"
namespace thinmaps {
namespace {

#elif defined(__SSE4_1__)

constexpr int32_t kWidePixels = 1;
constexpr int32_t kTileStep = 1;
constexpr int32_t kNarrowRow = 0;
constexpr int32_t kWidePairPixels = 1;
constexpr int32_t kMostBlocks = 1;
constexpr bool kSortsQuads = false;

// As for AVX2; a vector of sums holds 2 channels x 2 halves.
template <int kPixels, int kBlocks>
struct Tile {
  __m128i sum[8];

  void Clear() {
    for (__m128i& each : sum) each = _mm_setzero_si128();
  }

  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    const int32_t bytes = conv.pieces[i].bytes;
    for (int32_t j = 0; j < bytes; j += kQuad, x += kQuad, filters += kQuadBytes) {
      const __m128i half = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(LoadFour(x)));
      const __m128i quad = _mm_unpacklo_epi64(half, half);
      for (int k = 0; k < 8; ++k) {
        const auto* narrow = reinterpret_cast<const __m128i*>(filters + 8 * k);
        const __m128i filter = _mm_cvtepi8_epi16(_mm_loadl_epi64(narrow));
        sum[k] = _mm_add_epi32(sum[k], _mm_madd_epi16(quad, filter));
      }
    }
  }

  void Store(int32_t* sums) {
    for (int k = 0; k < 8; k += 2, sums += 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), _mm_hadd_epi32(sum[k], sum[k + 1]));
    }
  }
};

#else

constexpr int32_t kWidePixels = 1;
constexpr int32_t kTileStep = 1;
constexpr int32_t kNarrowRow = 0;
constexpr int32_t kWidePairPixels = 1;
constexpr int32_t kMostBlocks = 1;
constexpr bool kSortsQuads = false;

template <int kPixels, int kBlocks>
struct Tile {
  int32_t sum[kBlockChannels];

  void Clear() {
    for (int32_t& each : sum) each = 0;
  }

  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    const int32_t bytes = conv.pieces[i].bytes;
    for (int32_t j = 0; j < bytes; j += kQuad, x += kQuad) {
      for (int k = 0; k < kBlockChannels; ++k, filters += kQuad) {
        sum[k] += filters[0] * x[0] + filters[1] * x[1] + filters[2] * x[2] + filters[3] * x[3];
      }
    }
  }

  void Store(int32_t* sums) { __builtin_memcpy(sums, sum, sizeof sum); }
};

#endif
#endif

}  // namespace
}  // namespace thinmaps
