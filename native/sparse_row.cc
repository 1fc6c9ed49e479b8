// SPDX-License-Identifier: Apache-2.0
// The inner loops of sparse_row.h, compiled once per instruction set like conv_row.cc: the build
// defines THINMAPS_SPARSE_LOOPS, the name of the table.
//
// Sums are of integers, so that their order does not matter; padding and lanes past the last pixel
// are multiplied like others and not stored.
#include "sparse_row.h"

#include "load_four.h"
#include "rounding.h"
#include "unroll.h"

#if defined(__AVX2__)
#include "rounding_avx2.h"
#endif

namespace thinmaps {
namespace {

constexpr int32_t kChunk = 16;  // output channels that are stored together
constexpr int32_t kChunkQuartets = kChunk / kSquare;

inline const uint8_t* Find(const SparseTile& tile, uint32_t square, int32_t pixel) {
  const SquarePlace place = tile.places[square];
  return tile.rows[place.row] + place.plane * tile.plane_bytes + kSquare * (place.shift + pixel);
}

#if defined(__AVX512VNNI__)

constexpr int32_t kTileVectors = kMostVectors;

// In every lane of 128 bits the transposed 4 x 4 words of 32 bits.
inline void Transpose(__m512i (&v)[4]) {
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]);
  const __m512i b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]);
  const __m512i d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}

// Pixels first .. stop - 1, all of them inside.
void LayInside(const RowToLay& lay, int32_t first, int32_t stop) {
  for (int32_t c = 0; c < lay.channels; c += kChunk) {
    const int32_t left = lay.channels - c;
    const auto real = static_cast<__mmask16>(left < kChunk ? (1 << left) - 1 : 0xFFFF);
    uint8_t* to = lay.planes + c / kSquare * lay.plane_bytes;
    for (int32_t p = first; p < stop; p += kLanes) {
      const auto load = [&](int32_t i) {
        const int32_t pixel = p + i < stop ? p + i : stop - 1;
        return _mm_maskz_loadu_epi8(real, lay.row + lay.first + pixel * lay.step + c);
      };
      __m512i v[4];
      THINMAPS_UNROLL
      for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_castsi128_si512(load(i));
        v[i] = _mm512_inserti32x4(v[i], load(4 + i), 1);
        v[i] = _mm512_inserti32x4(v[i], load(8 + i), 2);
        v[i] = _mm512_inserti32x4(v[i], load(12 + i), 3);
      }
      Transpose(v);
      const int32_t some = stop - p;
      const auto here = static_cast<__mmask16>(some < kLanes ? (1 << some) - 1 : 0xFFFF);
      for (int32_t q = 0; q * kSquare < left && q < 4; ++q) {
        _mm512_mask_storeu_epi32(to + q * lay.plane_bytes + kSquare * p, here, v[q]);
      }
    }
  }
}

// made[p] = the 4 bytes of pixel p. Sums and the weights of a square are in registers.
template <int kVectors>
void MakeQuartet(const SparseTile& tile, const Quartet& quartet, int32_t, uint32_t* made) {
  __m512i sum[kVectors][kSquare];
  THINMAPS_UNROLL
  for (int p = 0; p < kVectors; ++p) {
    THINMAPS_UNROLL
    for (int k = 0; k < kSquare; ++k) sum[p][k] = _mm512_set1_epi32(quartet.bias[k]);
  }
  const int8_t* weights = tile.weights + ptrdiff_t{quartet.first} * kSquareBytes;
  for (uint32_t square = quartet.first; square < quartet.stop; ++square) {
    const uint8_t* x = Find(tile, square, 0);
    __m512i weight[kSquare];
    THINMAPS_UNROLL
    for (int k = 0; k < kSquare; ++k, weights += kSquare) {
      weight[k] = _mm512_set1_epi32(LoadFour(weights));
    }
    THINMAPS_UNROLL
    for (int p = 0; p < kVectors; ++p) {
      const __m512i quads = _mm512_loadu_si512(x + p * kLanes * kSquare);
      THINMAPS_UNROLL
      for (int k = 0; k < kSquare; ++k) {
        // In place: with the intrinsic, g++ 12 moves sums about and runs out of registers.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum[p][k]) : "v"(quads), "v"(weight[k]));
      }
    }
  }
  const __m512 low = _mm512_set1_ps(tile.rounding.low);
  const __m512 high = _mm512_set1_ps(tile.rounding.high);
  const __m512i after = _mm512_set1_epi16(static_cast<int16_t>(tile.rounding.after));
  const __m512i by_pixel =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  THINMAPS_UNROLL
  for (int p = 0; p < kVectors; ++p) {
    __m512i rounded[kSquare];
    THINMAPS_UNROLL
    for (int k = 0; k < kSquare; ++k) {
      const __m512 factor = _mm512_set1_ps(quartet.multiplier[k]);
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[p][k]), factor);
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
      rounded[k] = _mm512_cvt_roundps_epi32(clamped, 8);  // to nearest, no exceptions
    }
    const __m512i front = _mm512_add_epi16(_mm512_packs_epi32(rounded[0], rounded[1]), after);
    const __m512i back = _mm512_add_epi16(_mm512_packs_epi32(rounded[2], rounded[3]), after);
    // Packing took 4 pixels of each channel in turn.
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_packus_epi16(front, back), by_pixel);
    _mm512_store_si512(made + p * kLanes, bytes);
  }
}

// Pixels of a chunk, from quartets that lie `quartet_step` words apart.
void StoreChunk(const uint32_t* made, ptrdiff_t quartet_step, int32_t channels, int32_t pixels,
                uint8_t* out, ptrdiff_t out_step) {
  const auto real = static_cast<__mmask16>(channels < kChunk ? (1 << channels) - 1 : 0xFFFF);
  for (int32_t p = 0; p < pixels; p += kLanes, made += kLanes) {
    __m512i v[4];
    for (int q = 0; q < 4; ++q) v[q] = _mm512_load_si512(made + q * quartet_step);
    Transpose(v);
    alignas(64) __m128i bytes[kLanes];  // [pixel % 4][pixel / 4]
    for (int i = 0; i < 4; ++i) _mm512_store_si512(bytes + 4 * i, v[i]);
    const int32_t some = pixels - p < kLanes ? pixels - p : kLanes;
    for (int32_t i = 0; i < some; ++i, out += out_step) {
      _mm_mask_storeu_epi8(out, real, bytes[i % 4 * 4 + i / 4]);
    }
  }
}

#else

constexpr int32_t kTileVectors = 1;

// Pixels first .. stop - 1, all of them inside.
void LayInside(const RowToLay& lay, int32_t first, int32_t stop) {
  for (int32_t c = 0; c < lay.channels; c += kSquare) {
    const int32_t left = lay.channels - c;
    const uint8_t* from = lay.row + lay.first + first * lay.step + c;
    uint8_t* to = lay.planes + c / kSquare * lay.plane_bytes + kSquare * first;
    for (int32_t p = first; p < stop; ++p, from += lay.step, to += kSquare) {
      if (left >= kSquare) {
        __builtin_memcpy(to, from, kSquare);
      } else {
        __builtin_memcpy(to, from, static_cast<size_t>(left));
      }
    }
  }
}

// Pixels of a chunk, from quartets that lie `quartet_step` words apart.
void StoreChunk(const uint32_t* made, ptrdiff_t quartet_step, int32_t channels, int32_t pixels,
                uint8_t* out, ptrdiff_t out_step) {
  for (int32_t p = 0; p < pixels; ++p, out += out_step) {
    uint32_t words[kChunkQuartets];
    for (int32_t q = 0; q < kChunkQuartets; ++q) words[q] = made[q * quartet_step + p];
    if (channels == kChunk) {
      __builtin_memcpy(out, words, kChunk);
    } else {
      __builtin_memcpy(out, words, static_cast<size_t>(channels));
    }
  }
}

#if defined(__AVX2__)

constexpr int32_t kHalf = kLanes / 2;  // pixels of a vector of 8 sums

// sum[v][k] += the pairs that a square's weights make in 16 bits, none of which saturates.
inline void AddShort(__m256i (&sum)[2][kSquare], const uint8_t* x, const int8_t* weights) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int v = 0; v < 2; ++v) {
    const auto* from = reinterpret_cast<const __m256i*>(x + v * kHalf * kSquare);
    const __m256i quads = _mm256_loadu_si256(from);
    THINMAPS_UNROLL
    for (int k = 0; k < kSquare; ++k) {
      const __m256i weight = _mm256_set1_epi32(LoadFour(weights + k * kSquare));
      const __m256i pairs = _mm256_maddubs_epi16(quads, weight);
      sum[v][k] = _mm256_add_epi32(sum[v][k], _mm256_madd_epi16(pairs, ones));
    }
  }
}

// The same for any weights: bytes 0 and 2, then 1 and 3, in 16 bits.
inline void AddWide(__m256i (&sum)[2][kSquare], const uint8_t* x, const int8_t* weights) {
  const __m256i low_bytes = _mm256_set1_epi16(0xFF);
  for (int v = 0; v < 2; ++v) {
    const auto* from = reinterpret_cast<const __m256i*>(x + v * kHalf * kSquare);
    const __m256i quads = _mm256_loadu_si256(from);
    const __m256i x_even = _mm256_and_si256(quads, low_bytes);
    const __m256i x_odd = _mm256_srli_epi16(quads, 8);
    THINMAPS_UNROLL
    for (int k = 0; k < kSquare; ++k) {
      const __m256i weight = _mm256_set1_epi32(LoadFour(weights + k * kSquare));
      const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weight, 8), 8);
      const __m256i odd = _mm256_srai_epi16(weight, 8);
      sum[v][k] = _mm256_add_epi32(sum[v][k], _mm256_madd_epi16(x_even, even));
      sum[v][k] = _mm256_add_epi32(sum[v][k], _mm256_madd_epi16(x_odd, odd));
    }
  }
}

template <int>
void MakeQuartet(const SparseTile& tile, const Quartet& quartet, int32_t pixel, uint32_t* made) {
  __m256i sum[2][kSquare];
  for (int k = 0; k < kSquare; ++k) sum[0][k] = sum[1][k] = _mm256_set1_epi32(quartet.bias[k]);
  const int8_t* weights = tile.weights + ptrdiff_t{quartet.first} * kSquareBytes;
  uint32_t square = quartet.first;
  for (; square < quartet.wide; ++square, weights += kSquareBytes) {
    AddShort(sum, Find(tile, square, pixel), weights);
  }
  for (; square < quartet.stop; ++square, weights += kSquareBytes) {
    AddWide(sum, Find(tile, square, pixel), weights);
  }
  const VectorRounding rounding(tile.rounding);
  __m128i bytes[kSquare];
  for (int k = 0; k < kSquare; ++k) {
    const __m256i sums[2] = {sum[0][k], sum[1][k]};
    const __m256 factor = _mm256_set1_ps(quartet.multiplier[k]);
    const __m256 factors[2] = {factor, factor};
    bytes[k] = rounding.Bytes(sums, factors);
  }
  const __m128i front[2] = {_mm_unpacklo_epi8(bytes[0], bytes[1]),
                            _mm_unpackhi_epi8(bytes[0], bytes[1])};
  const __m128i back[2] = {_mm_unpacklo_epi8(bytes[2], bytes[3]),
                           _mm_unpackhi_epi8(bytes[2], bytes[3])};
  auto* to = reinterpret_cast<__m128i*>(made);
  for (int half = 0; half < 2; ++half) {
    _mm_store_si128(to++, _mm_unpacklo_epi16(front[half], back[half]));
    _mm_store_si128(to++, _mm_unpackhi_epi16(front[half], back[half]));
  }
}

#else

template <int>
void MakeQuartet(const SparseTile& tile, const Quartet& quartet, int32_t pixel, uint32_t* made) {
  int32_t sum[kSquare][kLanes];
  for (int32_t k = 0; k < kSquare; ++k) {
    for (int32_t& each : sum[k]) each = quartet.bias[k];
  }
  for (uint32_t square = quartet.first; square < quartet.stop; ++square) {
    const uint8_t* x = Find(tile, square, pixel);
    const int8_t* w = tile.weights + ptrdiff_t{square} * kSquareBytes;
    for (int32_t k = 0; k < kSquare; ++k, w += kSquare) {
      for (int32_t p = 0; p < kLanes; ++p) {
        const uint8_t* quad = x + kSquare * p;
        sum[k][p] += w[0] * quad[0] + w[1] * quad[1] + w[2] * quad[2] + w[3] * quad[3];
      }
    }
  }
  for (int32_t p = 0; p < kLanes; ++p) {
    uint8_t bytes[kSquare];
    for (int32_t k = 0; k < kSquare; ++k) {
      const float value = static_cast<float>(sum[k][p]) * quartet.multiplier[k];
      bytes[k] = RoundToByte(value, tile.rounding);
    }
    __builtin_memcpy(made + p, bytes, sizeof bytes);
  }
}

#endif
#endif

void Lay(const RowToLay& lay) {
  const ptrdiff_t before = lay.first < 0 ? (-lay.first + lay.step - 1) / lay.step : 0;
  const ptrdiff_t past =
      lay.first < lay.row_bytes ? (lay.row_bytes - 1 - lay.first) / lay.step + 1 : ptrdiff_t{0};
  const bool none = lay.row == nullptr || before >= lay.pixels || past <= before;
  const auto first = none ? lay.pixels : static_cast<int32_t>(before);
  const auto stop = none || past > lay.pixels ? lay.pixels : static_cast<int32_t>(past);
  uint8_t* plane = lay.planes;
  for (int32_t c = 0; c < lay.channels; c += kSquare, plane += lay.plane_bytes) {
    __builtin_memset(plane, lay.padding, static_cast<size_t>(kSquare * first));
    __builtin_memset(plane + kSquare * stop, lay.padding,
                     static_cast<size_t>(kSquare * (lay.pixels - stop)));
  }
  if (first < stop) LayInside(lay, first, stop);
}

// kVectors vectors of pixels from `first` on.
template <int kVectors>
void RunVectors(const SparseTile& tile, int32_t first) {
  constexpr int32_t kPixels = kVectors * kLanes;
  alignas(64) uint32_t made[kChunkQuartets][kPixels] = {};
  const int32_t left = tile.pixels - first;
  const int32_t pixels = left < kPixels ? left : kPixels;
  uint8_t* out = tile.out + first * tile.out_step;
  for (int32_t k = 0; k < tile.channels; k += kChunk) {
    const int32_t rest = tile.channels - k;
    const int32_t channels = rest < kChunk ? rest : kChunk;
    const Quartet* quartets = tile.quartets + k / kSquare;
    for (int32_t q = 0; q * kSquare < channels; ++q) {
      MakeQuartet<kVectors>(tile, quartets[q], first, made[q]);
    }
    StoreChunk(made[0], kPixels, channels, pixels, out + k, tile.out_step);
  }
}

// In the narrowest number of vectors that has room.
template <int kVectors>
void RunFitting(const SparseTile& tile, int32_t first) {
  if constexpr (kVectors > 1) {
    if (tile.pixels - first <= (kVectors - 1) * kLanes) {
      return RunFitting<kVectors - 1>(tile, first);
    }
  }
  RunVectors<kVectors>(tile, first);
}

void Tile(const SparseTile& tile) {
  for (int32_t first = 0; first < tile.pixels; first += kTileVectors * kLanes) {
    RunFitting<kTileVectors>(tile, first);
  }
}

}  // namespace

extern const SparseLoops THINMAPS_SPARSE_LOOPS;
const SparseLoops THINMAPS_SPARSE_LOOPS = {Lay, Tile};

}  // namespace thinmaps
