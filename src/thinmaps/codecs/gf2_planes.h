// SPDX-License-Identifier: Apache-2.0
// The arithmetic of bit_planes.py: a pixel's bytes to words of bits, group by group, and back.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "gf2_layers.h"
#include "little_endian.h"

namespace thinmaps::gf2 {

constexpr size_t kIdle = 8;  // the plane that no byte sets

struct Planes {
  size_t planes = 0;
  size_t groups = 0;
  size_t channels = 0;  // of a group
  uint8_t zero_point = 0;

  size_t words() const { return WordsOf(planes * channels); }
  uint8_t largest() const { return static_cast<uint8_t>((1u << std::min(planes, kIdle)) - 1); }
};

// Eight bytes at a time, one word of 64 bits.
struct PortablePlanes {
  static constexpr uint64_t kOnes = 0x0101010101010101;

  // The lowest bits of eight bytes side by side, and the reverse.
  static uint32_t Gather(uint64_t bytes) {
    return static_cast<uint32_t>((bytes & kOnes) * 0x0102040810204080 >> 56);
  }
  static uint64_t Spread(uint32_t bits) {
    const uint64_t each = bits * kOnes & 0x8040201008040201;
    return (each + 0x7F * kOnes) >> 7 & kOnes;
  }

  static void Encode(const Planes& of, const uint8_t* pixel, uint32_t* words) {
    std::fill_n(words, of.groups * of.words() + 1, 0);
    for (size_t group = 0; group < of.groups; ++group, words += of.words()) {
      for (size_t c = 0; c < of.channels; c += 8) {
        const size_t count = std::min<size_t>(8, of.channels - c);
        std::array<uint8_t, 8> bytes{};
        for (size_t i = 0; i < count; ++i) {
          bytes[i] = std::min(*pixel++, of.largest()) ^ of.zero_point;
        }
        const uint64_t eight = Load64(bytes.data());
        for (size_t b = 0; b < std::min(of.planes, kIdle); ++b) {
          const size_t bit = b * of.channels + c;
          const uint64_t placed = uint64_t{Gather(eight >> b)} << bit % kWordBits;
          words[bit / kWordBits] |= static_cast<uint32_t>(placed);
          words[bit / kWordBits + 1] |= static_cast<uint32_t>(placed >> kWordBits);
        }
      }
    }
  }

  static void Decode(const Planes& of, const uint32_t* words, uint8_t* pixel) {
    for (size_t group = 0; group < of.groups; ++group, words += of.words()) {
      for (size_t c = 0; c < of.channels; c += 8) {
        uint64_t eight = 0;
        uint64_t idle = 0;
        for (size_t b = 0; b < of.planes; ++b) {
          const size_t bit = b * of.channels + c;
          const uint64_t both = words[bit / kWordBits] | uint64_t{words[bit / kWordBits + 1]}
                                                             << kWordBits;
          const uint64_t set = Spread(both >> bit % kWordBits & 0xFF);
          (b == kIdle ? idle : eight) |= set << b % kIdle;
        }
        const size_t count = std::min<size_t>(8, of.channels - c);
        StorePart((eight ^ of.zero_point * kOnes) | idle * 0xFF, pixel, count);
        pixel += count;
      }
    }
  }
};

#if defined(__x86_64__)

// 64 channels at a time: a plane is a mask.
struct Avx512Planes {
  THINMAPS_GF2_AVX512 static void Encode(const Planes& of, const uint8_t* pixel, uint32_t* words) {
    for (size_t group = 0; group < of.groups; ++group, pixel += of.channels) {
      auto* at = static_cast<uint8_t*>(static_cast<void*>(words));
      const __m512i first = Distance(of, pixel, 0);
      uint64_t pending = 0;
      size_t filled = 0;  // < 64
      for (size_t b = 0; b < of.planes; ++b) {
        const __m512i bit = _mm512_set1_epi8(static_cast<char>(b == kIdle ? 0 : 1 << b));
        for (size_t c = 0; c < of.channels; c += 64) {
          const __m512i distance = c == 0 ? first : Distance(of, pixel, c);
          const uint64_t set = _mm512_test_epi8_mask(distance, bit);
          const size_t count = std::min<size_t>(64, of.channels - c);
          pending |= set << filled;
          if (filled + count < 64) {
            filled += count;
            continue;
          }
          Store64(pending, at);
          at += 8;
          const size_t taken = 64 - filled;
          pending = taken < 64 ? set >> taken : 0;
          filled = count - taken;
        }
      }
      Store64(pending, at);
      words += of.words();
    }
  }

  // 64 channels from `c` on as they differ from the zero point; 0 behind the last.
  THINMAPS_GF2_AVX512 static __m512i Distance(const Planes& of, const uint8_t* pixel, size_t c) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(64, of.channels - c));
    const __mmask64 used = _bzhi_u64(~uint64_t{0}, count);
    const __m512i bytes = _mm512_min_epu8(_mm512_maskz_loadu_epi8(used, pixel + c),
                                          _mm512_set1_epi8(static_cast<char>(of.largest())));
    const __m512i zero_point = _mm512_maskz_set1_epi8(used, static_cast<char>(of.zero_point));
    return _mm512_xor_si512(bytes, zero_point);
  }

  THINMAPS_GF2_AVX512 static void Decode(const Planes& of, const uint32_t* words, uint8_t* pixel) {
    for (size_t group = 0; group < of.groups; ++group, words += of.words(), pixel += of.channels) {
      const auto* bytes = static_cast<const uint8_t*>(static_cast<const void*>(words));
      for (size_t c = 0; c < of.channels; c += 64) {
        __m512i values = _mm512_set1_epi8(static_cast<char>(of.zero_point));
        for (size_t b = 0; b < std::min(of.planes, kIdle); ++b) {
          const __m512i flipped =
              _mm512_xor_si512(values, _mm512_set1_epi8(static_cast<char>(1 << b)));
          values = _mm512_mask_mov_epi8(values, BitsFrom(bytes, b * of.channels + c), flipped);
        }
        if (of.planes > kIdle) {
          const __mmask64 idle = BitsFrom(bytes, kIdle * of.channels + c);
          values = _mm512_mask_mov_epi8(values, idle, _mm512_set1_epi8(-1));
        }
        const auto count = static_cast<uint32_t>(std::min<size_t>(64, of.channels - c));
        _mm512_mask_storeu_epi8(pixel + c, _bzhi_u64(~uint64_t{0}, count), values);
      }
    }
  }

  // 64 bits from bit `first` on.
  THINMAPS_GF2_AVX512 static uint64_t BitsFrom(const uint8_t* bytes, size_t first) {
    const uint64_t low = Load64(bytes + first / 8) >> first % 8;
    return low | uint64_t{bytes[first / 8 + 8]} << 1 << (63 - first % 8);
  }
};

#endif

}  // namespace thinmaps::gf2
