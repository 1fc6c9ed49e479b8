// SPDX-License-Identifier: Apache-2.0
// The arithmetic of bit_layers.py: sums over set bits as populations of words under masks.
//
// A pixel is its groups' bits in 32-bit words, the first bit the lowest, each group from a word of
// its own on. A tile is 16 outputs, one per lane: a word of the pixel goes to all lanes and meets
// their masks, so that a comparison with the thresholds gives the outputs' bits side by side. Four
// or eight pixels share each mask that is loaded.
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
#define THINMAPS_GF2_AVX512_TARGET \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,bmi,bmi2,popcnt,prefer-vector-width=512"
#define THINMAPS_GF2_AVX512 [[gnu::target(THINMAPS_GF2_AVX512_TARGET)]]
#define THINMAPS_GF2_AVX512_INLINE [[gnu::target(THINMAPS_GF2_AVX512_TARGET), gnu::always_inline]]
#endif

namespace thinmaps::gf2 {

constexpr size_t kLanes = 16;
constexpr size_t kWordBits = 32;
constexpr size_t kMostWords = 256;  // of a pixel
constexpr size_t kMostLayers = 3;
constexpr size_t kMostSlices = 8;
constexpr size_t kMostTaps = 9;
constexpr size_t kBatch = 16;
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

  // Whether factors are powers of two of 128 at most, none larger than the one before it, and none
  // but the first less than 0.
  bool FactorsFall() const {
    int32_t most = 128;
    for (size_t s = 0; s < slices; ++s) {
      const int32_t size = factors[s] < 0 && s == 0 ? -factors[s] : factors[s];
      if (size < 1 || size > most || !std::has_single_bit(static_cast<uint32_t>(size))) {
        return false;
      }
      most = size;
    }
    return true;
  }
};

// What outputs look at: the taps that reach pixels, and the pixel of each for every output.
struct Window {
  size_t taps = 0;
  std::array<size_t, kMostTaps> tap{};
  std::array<std::array<const uint32_t*, kBatch>, kMostTaps> pixels{};
};

// One group of some outputs of a window, whose pixels share masks.
template <size_t kPixels>
struct Share {
  const Layer& layer;
  const Window& window;
  size_t words;
  size_t slice_bytes;
  size_t tile_bytes;
  const uint8_t* masks;
  const int32_t* thresholds;
  size_t group_word;
  std::array<size_t, kPixels> pixel;     // places in the window
  std::array<int32_t, kPixels> start{};  // sums before the first mask

  Share(const Layer& of, const Window& seen, size_t group, size_t first, size_t count)
      : layer(of),
        window(seen),
        words(of.words()),
        slice_bytes(of.taps * words * kMaskBytes),
        tile_bytes(of.slices * slice_bytes),
        masks(of.masks + group * of.tiles() * tile_bytes),
        thresholds(of.thresholds + group * of.tiles() * kLanes),
        group_word(group * words) {
    for (size_t p = 0; p < kPixels; ++p) {
      pixel[p] = std::min(first + p, count - 1);
      if (of.every != 0) start[p] = of.every * Population(p);
    }
  }

  const uint32_t* Words(size_t tap, size_t p) const {
    return window.pixels[tap][pixel[p]] + group_word;
  }
  size_t MaskPlace(size_t tap) const { return window.tap[tap] * words * kMaskBytes; }
  int32_t Population(size_t p) const {
    int32_t bits = 0;
    for (size_t t = 0; t < window.taps; ++t) {
      const uint32_t* x = Words(t, p);
      for (size_t k = 0; k < words; ++k) bits += std::popcount(x[k]);
    }
    return bits;
  }
};

// The output bits of two tiles, or one, for every pixel of a share.
template <size_t kPixels>
using TileBits = std::array<uint32_t, kPixels>;

// The loops: `Pair` and `Single` give those of tiles `tile` and, for a pair, `tile + 1`.
struct PortableTiles {
  static constexpr size_t kMostPixels = 4;

  template <size_t kPixels>
  static TileBits<kPixels> Single(const Share<kPixels>& share, size_t tile) {
    const int32_t* thresholds = share.thresholds + tile * kLanes;
    TileBits<kPixels> bits{};
    for (size_t p = 0; p < kPixels; ++p) {
      std::array<int32_t, kLanes> total;
      total.fill(share.start[p]);
      const uint8_t* masks = share.masks + tile * share.tile_bytes;
      for (size_t s = 0; s < share.layer.slices; ++s, masks += share.slice_bytes) {
        const auto counts = Count(share, p, masks);
        for (size_t l = 0; l < kLanes; ++l) total[l] += share.layer.factors[s] * counts[l];
      }
      for (size_t l = 0; l < kLanes; ++l) bits[p] |= uint32_t{total[l] >= thresholds[l]} << l;
    }
    return bits;
  }

  template <size_t kPixels>
  static std::array<int32_t, kLanes> Count(const Share<kPixels>& share, size_t p,
                                           const uint8_t* masks) {
    std::array<int32_t, kLanes> counts{};
    for (size_t t = 0; t < share.window.taps; ++t) {
      const uint32_t* x = share.Words(t, p);
      const uint8_t* mask = masks + share.MaskPlace(t);
      for (size_t k = 0; k < share.words; ++k, mask += kMaskBytes) {
        for (size_t l = 0; l < kLanes; ++l) {
          counts[l] += std::popcount(x[k] & LoadWord(mask + l * sizeof(uint32_t)));
        }
      }
    }
    return counts;
  }

  template <size_t kPixels>
  static TileBits<kPixels> Pair(const Share<kPixels>& share, size_t tile) {
    TileBits<kPixels> bits = Single(share, tile);
    const TileBits<kPixels> next = Single(share, tile + 1);
    for (size_t p = 0; p < kPixels; ++p) bits[p] |= next[p] << kLanes;
    return bits;
  }
};

#if defined(__x86_64__)

// Bits are counted by looking up half bytes; bytes hold the counts of 31 words before they are
// added up in lanes of 32 bits.
struct Avx2Tiles {
  static constexpr size_t kMostPixels = 4;

  template <size_t kPixels>
  THINMAPS_GF2_AVX2 static TileBits<kPixels> Pair(const Share<kPixels>& share, size_t tile) {
    TileBits<kPixels> bits = Single(share, tile);
    const TileBits<kPixels> next = Single(share, tile + 1);
    for (size_t p = 0; p < kPixels; ++p) bits[p] |= next[p] << kLanes;
    return bits;
  }

  template <size_t kPixels>
  THINMAPS_GF2_AVX2 static TileBits<kPixels> Single(const Share<kPixels>& share, size_t tile) {
    TileBits<kPixels> bits{};
    for (size_t half = 0; half < 2; ++half) {
      const TileBits<kPixels> found = Half(share, tile, half);
      for (size_t p = 0; p < kPixels; ++p) bits[p] |= found[p] << (kLanes / 2 * half);
    }
    return bits;
  }

  template <size_t kPixels>
  THINMAPS_GF2_AVX2 static TileBits<kPixels> Half(const Share<kPixels>& share, size_t tile,
                                                  size_t half) {
    __m256i total[kPixels];
    for (size_t p = 0; p < kPixels; ++p) total[p] = _mm256_set1_epi32(share.start[p]);
    const uint8_t* masks = share.masks + tile * share.tile_bytes + half * sizeof(__m256i);
    for (size_t s = 0; s < share.layer.slices; ++s, masks += share.slice_bytes) {
      __m256i counts[kPixels];
      Count(share, masks, counts);
      const __m256i factor = _mm256_set1_epi32(share.layer.factors[s]);
      for (size_t p = 0; p < kPixels; ++p) {
        total[p] = _mm256_add_epi32(total[p], _mm256_mullo_epi32(counts[p], factor));
      }
    }
    const __m256i threshold = Load(share.thresholds + tile * kLanes + half * kLanes / 2);
    TileBits<kPixels> bits;
    for (size_t p = 0; p < kPixels; ++p) {
      const __m256i below = _mm256_cmpgt_epi32(threshold, total[p]);
      bits[p] = ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 0xFF;
    }
    return bits;
  }

  template <size_t kPixels>
  THINMAPS_GF2_AVX2 static void Count(const Share<kPixels>& share, const uint8_t* masks,
                                      __m256i* counts) {
    constexpr size_t kFull = 31;  // words of which a byte holds the count: 31 * 8 < 256
    __m256i bytes[kPixels];
    for (size_t p = 0; p < kPixels; ++p) counts[p] = bytes[p] = _mm256_setzero_si256();
    size_t filled = 0;
    for (size_t t = 0; t < share.window.taps; ++t) {
      const uint8_t* mask = masks + share.MaskPlace(t);
      const uint32_t* x[kPixels];
      for (size_t p = 0; p < kPixels; ++p) x[p] = share.Words(t, p);
      for (size_t k = 0; k < share.words; ++k, mask += kMaskBytes) {
        const __m256i here = Load(mask);
        for (size_t p = 0; p < kPixels; ++p) {
          const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(x[p][k]));
          bytes[p] = _mm256_add_epi8(bytes[p], InBytes(_mm256_and_si256(here, all)));
        }
        if (++filled == kFull) {
          AddUp<kPixels>(bytes, counts);
          filled = 0;
        }
      }
    }
    AddUp<kPixels>(bytes, counts);
  }

  THINMAPS_GF2_AVX2 static __m256i Load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }

  THINMAPS_GF2_AVX2 static __m256i InBytes(__m256i bits) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                           2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i four = _mm256_set1_epi8(15);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), four);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(bits, four)),
                           _mm256_shuffle_epi8(table, high));
  }

  template <size_t kPixels>
  THINMAPS_GF2_AVX2 static void AddUp(__m256i* bytes, __m256i* counts) {
    const __m256i one = _mm256_set1_epi8(1);
    for (size_t p = 0; p < kPixels; ++p) {
      const __m256i pairs = _mm256_maddubs_epi16(bytes[p], one);
      counts[p] = _mm256_add_epi32(counts[p], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      bytes[p] = _mm256_setzero_si256();
    }
  }
};

// So that sums stay in registers.
#define UNROLLED _Pragma("GCC unroll 16")

struct Avx512Tiles {
  static constexpr size_t kMostPixels = 8;

  template <size_t kPixels>
  THINMAPS_GF2_AVX512 static TileBits<kPixels> Single(const Share<kPixels>& share, size_t tile) {
    return Some<1>(share, tile);
  }
  template <size_t kPixels>
  THINMAPS_GF2_AVX512 static TileBits<kPixels> Pair(const Share<kPixels>& share, size_t tile) {
    return Some<2>(share, tile);
  }

  // Factors fall, are powers of two, and only the first is less than 0 (Layer.FactorsFall): so the
  // sums of all slices are made in the same registers, which shift to the next factor in between.
  template <size_t kTiles, size_t kPixels>
  THINMAPS_GF2_AVX512_INLINE static TileBits<kPixels> Some(const Share<kPixels>& share,
                                                           size_t tile) {
    constexpr size_t kSums = kTiles * kPixels;
    __m512i sums[kSums];  // a pixel's tiles side by side
    UNROLLED for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    const Layer& layer = share.layer;
    const uint8_t* masks = share.masks + tile * share.tile_bytes;
    for (size_t s = 0; s < layer.slices; ++s, masks += share.slice_bytes) {
      Count<kTiles>(share, masks, sums);
      if (layer.factors[s] < 0) {
        UNROLLED for (__m512i& sum : sums) sum = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
      }
      const int next = s + 1 < layer.slices ? Exponent(layer.factors[s + 1]) : 0;
      if (const int shift = Exponent(layer.factors[s]) - next; shift != 0) {
        const __m128i by = _mm_cvtsi32_si128(shift);
        UNROLLED for (__m512i& sum : sums) sum = _mm512_sll_epi32(sum, by);
      }
    }
    __m512i thresholds[kTiles];
    for (size_t v = 0; v < kTiles; ++v) {
      thresholds[v] = _mm512_loadu_si512(share.thresholds + (tile + v) * kLanes);
    }
    TileBits<kPixels> bits{};
    UNROLLED for (size_t i = 0; i < kSums; ++i) {
      const __m512i start = _mm512_set1_epi32(share.start[i / kTiles]);
      const __m512i sum = _mm512_add_epi32(sums[i], start);
      const __mmask16 set = _mm512_cmpge_epi32_mask(sum, thresholds[i % kTiles]);
      bits[i / kTiles] |= uint32_t{_cvtmask16_u32(set)} << kLanes * (i % kTiles);
    }
    return bits;
  }

  static int Exponent(int32_t factor) {
    return std::countr_zero(static_cast<uint32_t>(factor < 0 ? -factor : factor));
  }

  template <size_t kTiles, size_t kPixels>
  THINMAPS_GF2_AVX512_INLINE static void Count(const Share<kPixels>& share, const uint8_t* masks,
                                               __m512i (&sums)[kTiles * kPixels]) {
    for (size_t t = 0; t < share.window.taps; ++t) {
      const uint8_t* mask = masks + share.MaskPlace(t);
      const uint32_t* x[kPixels];
      UNROLLED for (size_t p = 0; p < kPixels; ++p) x[p] = share.Words(t, p);
      for (size_t k = 0; k < share.words; ++k, mask += kMaskBytes) {
        __m512i here[kTiles];
        UNROLLED for (size_t v = 0; v < kTiles; ++v) {
          here[v] = _mm512_loadu_si512(mask + v * share.tile_bytes);
        }
        UNROLLED for (size_t i = 0; i < kTiles * kPixels; ++i) {
          const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(x[i / kTiles][k]));
          const __m512i set = _mm512_popcnt_epi32(_mm512_and_si512(here[i % kTiles], all));
          sums[i] = _mm512_add_epi32(sums[i], set);
        }
      }
    }
  }
};

#undef UNROLLED
#endif

// The output bits of windows `first` to `first + pixels` of `count`.
template <typename Tiles, size_t kPixels>
void ApplyTo(const Layer& layer, const Window& window, size_t first, size_t count,
             uint32_t* const* out) {
  const size_t pixels = std::min(kPixels, count - first);
  const size_t tiles = layer.tiles();
  for (size_t group = 0; group < layer.groups; ++group) {
    const Share<kPixels> share(layer, window, group, first, count);
    for (size_t tile = 0; tile < tiles; tile += 2) {
      const auto bits = tile + 1 < tiles ? Tiles::Pair(share, tile) : Tiles::Single(share, tile);
      const size_t word = group * layer.output_words() + tile / 2;
      for (size_t p = 0; p < pixels; ++p) out[first + p][word] = bits[p];
    }
  }
}

// The output bits of `count` windows.
template <typename Tiles>
void Apply(const Layer& layer, const Window& window, size_t count, uint32_t* const* out) {
  constexpr size_t kFew = 4;
  for (size_t first = 0; first < count;) {
    if (Tiles::kMostPixels > kFew && count - first > kFew) {
      ApplyTo<Tiles, Tiles::kMostPixels>(layer, window, first, count, out);
      first += Tiles::kMostPixels;
    } else {
      ApplyTo<Tiles, kFew>(layer, window, first, count, out);
      first += kFew;
    }
  }
}

}  // namespace thinmaps::gf2
