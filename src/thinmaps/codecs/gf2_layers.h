// SPDX-License-Identifier: Apache-2.0
// The arithmetic of bit_layers.py: sums over set bits as populations of words under masks.
//
// A pixel is its groups' bits in 32-bit words, the first bit the lowest, each group from a word of
// its own on. A tile is 16 outputs, one per lane: a word of the pixel goes to all lanes and meets
// their masks, so that a comparison with the thresholds gives the outputs' bits side by side. Four
// pixels share each mask that is loaded.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "codec.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_GF2_AVX2 [[gnu::target("avx2,bmi,bmi2,popcnt")]]
#define THINMAPS_GF2_AVX512 \
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps::gf2 {

constexpr size_t kLanes = 16;
constexpr size_t kWordBits = 32;
constexpr size_t kMostWords = 256;  // of a pixel
constexpr size_t kMostLayers = 4;
constexpr size_t kMostSlices = 8;
constexpr size_t kMostTaps = 9;
constexpr size_t kShare = 4;  // pixels that share a mask
constexpr size_t kBatch = 8;
constexpr size_t kMaskBytes = kLanes * sizeof(uint32_t);

// Behind its words is room for what is read and written 72 bits at a time.
struct Pixel {
  uint32_t words[kMostWords + 3];
};

inline size_t WordsOf(size_t bits) { return (bits + kWordBits - 1) / kWordBits; }

inline uint32_t LoadWord(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap32(word);
  return word;
}

// As BitLayer.native_integers and native_tables say.
struct Layer {
  size_t groups = 0;
  size_t inputs = 0;   // of a group
  size_t outputs = 0;  // of a group
  size_t taps = 0;
  int32_t every = 0;
  size_t slices = 0;
  std::array<int32_t, kMostSlices> factors{};
  const int32_t* thresholds = nullptr;
  const uint8_t* masks = nullptr;

  size_t words() const { return WordsOf(inputs); }
  size_t output_words() const { return WordsOf(outputs); }
  size_t tiles() const { return (outputs + kLanes - 1) / kLanes; }
  size_t tile_bytes() const { return slices * taps * words() * kMaskBytes; }
  size_t mask_bytes() const { return groups * tiles() * tile_bytes(); }
  size_t threshold_count() const { return groups * tiles() * kLanes; }
};

// What outputs look at: the taps that reach pixels, and the pixel of each for every output.
struct Window {
  size_t taps = 0;
  std::array<size_t, kMostTaps> tap{};
  std::array<std::array<const uint32_t*, kBatch>, kMostTaps> pixels{};
};

// One group of `kShare` outputs of a window.
struct Share {
  const Layer* layer;
  const Window* window;
  size_t group;
  std::array<size_t, kShare> pixel;     // places in the window
  std::array<int32_t, kShare> start{};  // sums before the first mask

  Share(const Layer& of, const Window& seen, size_t which, size_t first, size_t count)
      : layer(&of), window(&seen), group(which) {
    for (size_t p = 0; p < kShare; ++p) {
      pixel[p] = std::min(first + p, count - 1);
      if (of.every != 0) start[p] = of.every * Population(p);
    }
  }

  const uint32_t* Words(size_t tap, size_t p) const {
    return window->pixels[tap][pixel[p]] + group * layer->words();
  }
  const uint8_t* Masks(size_t tile) const {
    return layer->masks + (group * layer->tiles() + tile) * layer->tile_bytes();
  }
  const int32_t* Thresholds(size_t tile) const {
    return layer->thresholds + (group * layer->tiles() + tile) * kLanes;
  }
  int32_t Population(size_t p) const {
    int32_t bits = 0;
    for (size_t t = 0; t < window->taps; ++t) {
      const uint32_t* words = Words(t, p);
      for (size_t k = 0; k < layer->words(); ++k) bits += std::popcount(words[k]);
    }
    return bits;
  }
};

// The loops: `Tiles` fills the output bits of tile `tile`, and of the next one where `both`, for
// every pixel of a share.
using TileBits = std::array<uint32_t, kShare>;

struct PortableTiles {
  static TileBits Tile(const Share& share, size_t tile) {
    const Layer& layer = *share.layer;
    const int32_t* thresholds = share.Thresholds(tile);
    TileBits bits{};
    for (size_t p = 0; p < kShare; ++p) {
      std::array<int32_t, kLanes> total;
      total.fill(share.start[p]);
      const uint8_t* mask = share.Masks(tile);
      for (size_t s = 0; s < layer.slices; ++s, mask += layer.taps * layer.words() * kMaskBytes) {
        const auto counts = Count(share, p, mask);
        for (size_t l = 0; l < kLanes; ++l) total[l] += layer.factors[s] * counts[l];
      }
      for (size_t l = 0; l < kLanes; ++l) bits[p] |= uint32_t{total[l] >= thresholds[l]} << l;
    }
    return bits;
  }

  static std::array<int32_t, kLanes> Count(const Share& share, size_t p, const uint8_t* masks) {
    const size_t words = share.layer->words();
    std::array<int32_t, kLanes> counts{};
    for (size_t t = 0; t < share.window->taps; ++t) {
      const uint32_t* x = share.Words(t, p);
      const uint8_t* mask = masks + share.window->tap[t] * words * kMaskBytes;
      for (size_t k = 0; k < words; ++k, mask += kMaskBytes) {
        for (size_t l = 0; l < kLanes; ++l) {
          counts[l] += std::popcount(x[k] & LoadWord(mask + l * sizeof(uint32_t)));
        }
      }
    }
    return counts;
  }

  static TileBits Pair(const Share& share, size_t tile) {
    TileBits bits = Tile(share, tile);
    const TileBits next = Tile(share, tile + 1);
    for (size_t p = 0; p < kShare; ++p) bits[p] |= next[p] << kLanes;
    return bits;
  }
};

#if defined(__x86_64__)

// Bits are counted by looking up half bytes; bytes hold the counts of 31 words before they are
// added up in lanes of 32 bits.
struct Avx2Tiles {
  THINMAPS_GF2_AVX2 static TileBits Pair(const Share& share, size_t tile) {
    TileBits bits = Tile(share, tile);
    const TileBits next = Tile(share, tile + 1);
    for (size_t p = 0; p < kShare; ++p) bits[p] |= next[p] << kLanes;
    return bits;
  }

  THINMAPS_GF2_AVX2 static TileBits Tile(const Share& share, size_t tile) {
    TileBits bits{};
    for (size_t half = 0; half < 2; ++half) {
      const TileBits found = Half(share, tile, half);
      for (size_t p = 0; p < kShare; ++p) bits[p] |= found[p] << (kLanes / 2 * half);
    }
    return bits;
  }

  THINMAPS_GF2_AVX2 static TileBits Half(const Share& share, size_t tile, size_t half) {
    const Layer& layer = *share.layer;
    __m256i total[kShare];
    for (size_t p = 0; p < kShare; ++p) total[p] = _mm256_set1_epi32(share.start[p]);
    const uint8_t* mask = share.Masks(tile) + half * sizeof(__m256i);
    for (size_t s = 0; s < layer.slices; ++s, mask += layer.taps * layer.words() * kMaskBytes) {
      __m256i counts[kShare];
      Count(share, mask, counts);
      const __m256i factor = _mm256_set1_epi32(layer.factors[s]);
      for (size_t p = 0; p < kShare; ++p) {
        total[p] = _mm256_add_epi32(total[p], _mm256_mullo_epi32(counts[p], factor));
      }
    }
    const int32_t* thresholds = share.Thresholds(tile) + half * kLanes / 2;
    const __m256i threshold =
        _mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(thresholds)));
    TileBits bits;
    for (size_t p = 0; p < kShare; ++p) {
      const __m256i below = _mm256_cmpgt_epi32(threshold, total[p]);
      bits[p] = ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 0xFF;
    }
    return bits;
  }

  THINMAPS_GF2_AVX2 static void Count(const Share& share, const uint8_t* masks, __m256i* counts) {
    constexpr size_t kFull = 31;  // words of which a byte holds the count: 31 * 8 < 256
    const size_t words = share.layer->words();
    __m256i bytes[kShare];
    for (size_t p = 0; p < kShare; ++p) counts[p] = bytes[p] = _mm256_setzero_si256();
    size_t filled = 0;
    for (size_t t = 0; t < share.window->taps; ++t) {
      const uint8_t* mask = masks + share.window->tap[t] * words * kMaskBytes;
      const uint32_t* x[kShare];
      for (size_t p = 0; p < kShare; ++p) x[p] = share.Words(t, p);
      for (size_t k = 0; k < words; ++k, mask += kMaskBytes) {
        const __m256i here =
            _mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(mask)));
        for (size_t p = 0; p < kShare; ++p) {
          const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(x[p][k]));
          bytes[p] = _mm256_add_epi8(bytes[p], InBytes(_mm256_and_si256(here, all)));
        }
        if (++filled == kFull) {
          AddUp(bytes, counts);
          filled = 0;
        }
      }
    }
    AddUp(bytes, counts);
  }

  THINMAPS_GF2_AVX2 static __m256i InBytes(__m256i bits) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                           2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i four = _mm256_set1_epi8(15);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), four);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(bits, four)),
                           _mm256_shuffle_epi8(table, high));
  }

  THINMAPS_GF2_AVX2 static void AddUp(__m256i* bytes, __m256i* counts) {
    const __m256i one = _mm256_set1_epi8(1);
    for (size_t p = 0; p < kShare; ++p) {
      const __m256i pairs = _mm256_maddubs_epi16(bytes[p], one);
      counts[p] = _mm256_add_epi32(counts[p], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      bytes[p] = _mm256_setzero_si256();
    }
  }
};

struct Avx512Tiles {
  THINMAPS_GF2_AVX512 static TileBits Tile(const Share& share, size_t tile) {
    return Some<1>(share, tile);
  }
  THINMAPS_GF2_AVX512 static TileBits Pair(const Share& share, size_t tile) {
    return Some<2>(share, tile);
  }

  // Factors are powers of two, or less 0.
  template <size_t kTiles>
  THINMAPS_GF2_AVX512 static TileBits Some(const Share& share, size_t tile) {
    const Layer& layer = *share.layer;
    __m512i total[kTiles][kShare];
    for (auto& row : total) {
      for (size_t p = 0; p < kShare; ++p) row[p] = _mm512_set1_epi32(share.start[p]);
    }
    const uint8_t* mask = share.Masks(tile);
    for (size_t s = 0; s < layer.slices; ++s, mask += layer.taps * layer.words() * kMaskBytes) {
      __m512i counts[kTiles][kShare];
      Count<kTiles>(share, mask, counts);
      const int32_t factor = layer.factors[s];
      const auto size = static_cast<uint32_t>(factor < 0 ? -factor : factor);
      const __m512i shift = _mm512_set1_epi32(std::countr_zero(size));
      for (size_t v = 0; v < kTiles; ++v) {
        for (size_t p = 0; p < kShare; ++p) {
          const __m512i scaled = _mm512_sllv_epi32(counts[v][p], shift);
          total[v][p] = factor < 0 ? _mm512_sub_epi32(total[v][p], scaled)
                                   : _mm512_add_epi32(total[v][p], scaled);
        }
      }
    }
    TileBits bits{};
    for (size_t v = 0; v < kTiles; ++v) {
      const __m512i threshold = _mm512_loadu_si512(share.Thresholds(tile + v));
      for (size_t p = 0; p < kShare; ++p) {
        const __mmask16 set = _mm512_cmpge_epi32_mask(total[v][p], threshold);
        bits[p] |= uint32_t{_cvtmask16_u32(set)} << kLanes * v;
      }
    }
    return bits;
  }

  template <size_t kTiles>
  THINMAPS_GF2_AVX512 static void Count(const Share& share, const uint8_t* masks,
                                        __m512i (*counts)[kShare]) {
    const size_t words = share.layer->words();
    const size_t next = share.layer->tile_bytes();
    __m512i sums[kTiles][kShare];
    for (auto& row : sums) {
      for (__m512i& sum : row) sum = _mm512_setzero_si512();
    }
    for (size_t t = 0; t < share.window->taps; ++t) {
      const uint8_t* mask = masks + share.window->tap[t] * words * kMaskBytes;
      const uint32_t* x[kShare];
      for (size_t p = 0; p < kShare; ++p) x[p] = share.Words(t, p);
      for (size_t k = 0; k < words; ++k, mask += kMaskBytes) {
        __m512i here[kTiles];
        for (size_t v = 0; v < kTiles; ++v) here[v] = _mm512_loadu_si512(mask + v * next);
        for (size_t p = 0; p < kShare; ++p) {
          const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(x[p][k]));
          for (size_t v = 0; v < kTiles; ++v) {
            const __m512i set = _mm512_popcnt_epi32(_mm512_and_si512(here[v], all));
            sums[v][p] = _mm512_add_epi32(sums[v][p], set);
          }
        }
      }
    }
    for (size_t v = 0; v < kTiles; ++v) {
      for (size_t p = 0; p < kShare; ++p) counts[v][p] = sums[v][p];
    }
  }
};

#endif

// The output bits of `count` windows.
template <typename Tiles>
void Apply(const Layer& layer, const Window& window, size_t count, uint32_t* const* out) {
  for (size_t first = 0; first < count; first += kShare) {
    const size_t pixels = std::min(kShare, count - first);
    for (size_t group = 0; group < layer.groups; ++group) {
      const Share share(layer, window, group, first, count);
      for (size_t tile = 0; tile < layer.tiles(); tile += 2) {
        const bool both = tile + 1 < layer.tiles();
        const TileBits bits = both ? Tiles::Pair(share, tile) : Tiles::Tile(share, tile);
        const size_t word = group * layer.output_words() + tile / 2;
        for (size_t p = 0; p < pixels; ++p) out[first + p][word] = bits[p];
      }
    }
  }
}

}  // namespace thinmaps::gf2
