// SPDX-License-Identifier: Apache-2.0
// Native twin of channel_dct.py, which specifies the payload; transform.h has the arithmetic.
//
// Group by group, several pixels at a time. Which form is shorter is known at the end only, so
// that a unit is encoded with presence bits until they do not pay, and then once more without.
#include "channel_dct.h"

#include <algorithm>
#include <array>
#include <bit>

#include "codec.h"
#include "transform.h"

#if defined(__x86_64__)
// Kept whole: inlined into all that is around them, g++ takes these loops for cold.
#define THINMAPS_AVX512 \
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2,bmi,bmi2,popcnt")]]
#define THINMAPS_AVX512_LOOP     \
  [[gnu::noinline, gnu::flatten, \
    gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps {
namespace {

using namespace channel_dct;

// Rows of pixels as far as they go into whole registers; what is left goes pixel by pixel.
struct PortableRows : PortableTransform {
  static size_t EncodeWide(const Line&, const uint8_t*, ptrdiff_t, size_t, Sink*) { return 0; }
  static size_t DecodeWide(const Line&, uint8_t*, ptrdiff_t, size_t, Source*, bool*) { return 0; }
};

template <typename Loops>
void EncodeRow(const Line& line, const uint8_t* row, ptrdiff_t pixel_bytes, size_t pixels,
               Sink* sink) {
  const size_t done = Loops::EncodeWide(line, row, pixel_bytes, pixels, sink);
  Batch elements{};
  Batch codes{};
  for (size_t first = done; first < pixels; first += kBatch) {
    const size_t count = std::min(kBatch, pixels - first);
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* pixel = row + static_cast<ptrdiff_t>(first + i) * pixel_bytes;
      line.channels.Take(pixel, elements[i].data());
    }
    Loops::Apply(line.group.analysis, count, elements, &codes);
    for (size_t i = 0; i < count; ++i) {
      for (size_t k = 0; k < kMostGroup; ++k) {
        codes[i][k] = static_cast<uint8_t>(codes[i][k] - line.zero_codes[k]);
      }
      sink->Append(codes[i].data(), line.group.components);
    }
  }
}

// Returns whether all codes are some that the encoder writes.
template <typename Loops>
bool DecodeRow(const Line& line, uint8_t* row, ptrdiff_t pixel_bytes, size_t pixels,
               Source* source) {
  bool good = true;
  const size_t done = Loops::DecodeWide(line, row, pixel_bytes, pixels, source, &good);
  Batch elements{};
  Batch codes{};
  for (size_t first = done; first < pixels; first += kBatch) {
    const size_t count = std::min(kBatch, pixels - first);
    for (size_t i = 0; i < count; ++i) {
      source->Take(line.group.components, codes[i].data());
      for (size_t k = 0; k < kMostGroup; ++k) {
        codes[i][k] = static_cast<uint8_t>(codes[i][k] + line.zero_codes[k]);
      }
      good &= AreCodes(line.group.analysis, codes[i]);
    }
    Loops::Apply(line.group.synthesis, count, codes, &elements);
    for (size_t i = 0; i < count; ++i) {
      uint8_t* pixel = row + static_cast<ptrdiff_t>(first + i) * pixel_bytes;
      line.channels.Put(elements[i].data(), pixel);
    }
  }
  return good;
}

template <typename Loops>
void EncodeTo(const CodecSpec& spec, const Tables& tables, const ConstRows& rows, Sink* sink) {
  tables.transform.ForEachGroup([&](const Group& group) {
    const Line line(spec, tables, group);
    for (int32_t row = 0; row < rows.count && !sink->full; ++row) {
      EncodeRow<Loops>(line, rows.rows[row], rows.pixel_bytes, static_cast<size_t>(spec.width),
                       sink);
    }
  });
}

size_t BytesOf(const CodecSpec& spec, const Tables& tables, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) * tables.transform.components;
}

template <typename Loops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Tables tables;
  if (!tables.Read(spec)) return Status::kBadArgument;
  const size_t count = BytesOf(spec, tables, rows.count);
  const size_t bitmap_bytes = (count + 7) / 8;
  if (payload.size() < 1 + count) return Status::kTooSmall;

  // Presence bits pay where bits and values are shorter than all bytes.
  Sink sink;
  sink.bitmap = BitWriter(payload.subspan(1, bitmap_bytes));
  sink.value = payload.data() + 1 + bitmap_bytes;
  sink.end = payload.data() + count;
  sink.full = bitmap_bytes >= count;
  EncodeTo<Loops>(spec, tables, rows, &sink);
  payload[0] = sink.full ? kPlain : kWithBitmap;
  if (sink.full) {
    sink = {true, false, {}, payload.data() + 1, payload.data() + 1 + count};
    EncodeTo<Loops>(spec, tables, rows, &sink);
  } else {
    sink.bitmap.Flush();
  }
  *written = static_cast<size_t>(sink.value - payload.data());
  return Status::kOk;
}

template <typename Loops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  Tables tables;
  if (!tables.Read(spec)) return Status::kBadArgument;
  Source source;
  if (!source.Read(payload, BytesOf(spec, tables, rows.count))) return Status::kCorruptPayload;

  bool good = true;
  tables.transform.ForEachGroup([&](const Group& group) {
    const Line line(spec, tables, group);
    for (int32_t row = 0; row < rows.count; ++row) {
      good &= DecodeRow<Loops>(line, rows.rows[row], rows.pixel_bytes,
                               static_cast<size_t>(spec.width), &source);
    }
  });
  return good ? Status::kOk : Status::kCorruptPayload;
}

#if defined(__x86_64__)

// Groups of 8 or 16 channels: as many pixels as make 64 bytes go through a stage in one register.
struct Avx512Rows : Avx512Transform {
  THINMAPS_AVX512 static size_t EncodeWide(const Line& line, const uint8_t* row,
                                           ptrdiff_t pixel_bytes, size_t pixels, Sink* sink) {
    if (line.channels.count == 8) return EncodePixels<8>(line, row, pixel_bytes, pixels, sink);
    if (line.channels.count == 16) return EncodePixels<16>(line, row, pixel_bytes, pixels, sink);
    return 0;
  }

  THINMAPS_AVX512 static size_t DecodeWide(const Line& line, uint8_t* row, ptrdiff_t pixel_bytes,
                                           size_t pixels, Source* source, bool* good) {
    if (line.channels.count == 8) {
      return DecodePixels<8>(line, row, pixel_bytes, pixels, source, good);
    }
    if (line.channels.count == 16) {
      return DecodePixels<16>(line, row, pixel_bytes, pixels, source, good);
    }
    return 0;
  }

 private:
  // Lanes that are a component's, of the 64 / kLength pixels in a register.
  template <size_t kLength>
  static uint64_t Asked(size_t components) {
    const uint64_t each = kLength == 8 ? 0x0101010101010101 : 0x0001000100010001;
    return ((uint64_t{1} << components) - 1) * each;
  }

  // A table of kLength bytes, or numbers, for every pixel in the register.
  template <size_t kLength>
  THINMAPS_AVX512 static __m512i Bytes(const uint8_t* table) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return kLength == 8 ? _mm512_broadcastq_epi64(bytes) : _mm512_broadcast_i32x4(bytes);
  }
  template <size_t kLength>
  THINMAPS_AVX512 static __m512i Numbers(const void* table) {
    if constexpr (kLength == 16) return _mm512_loadu_si512(table);
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(table)));
  }

  // Channels that lie side by side, of as many pixels as fill a register. Through memory, a load
  // would wait for the stores that it covers.
  template <size_t kLength>
  THINMAPS_AVX512 static __m512i Load(const uint8_t* pixel, ptrdiff_t pixel_bytes) {
    __m128i parts[4];
#pragma GCC unroll 4
    for (__m128i& part : parts) {
      if constexpr (kLength == 16) {
        part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel));
        pixel += pixel_bytes;
      } else {
        const __m128i even = _mm_loadu_si64(pixel);
        part = _mm_unpacklo_epi64(even, _mm_loadu_si64(pixel + pixel_bytes));
        pixel += 2 * pixel_bytes;
      }
    }
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(parts[0]), parts[1], 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(parts[2]), parts[3], 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

  // Register j of four has the outputs of 16 / kLength pixels. Their inputs' quads are spread over
  // the lanes of a pixel's outputs; packing interleaves the registers, the last permutation undoes
  // it. Two saturations are the clamp to 0..255.
  template <size_t kLength>
  THINMAPS_AVX512 static __m512i ApplyWide(const Stage& stage, __m512i x) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i pixel_quad =
        kLength == 16 ? _mm512_setzero_si512() : _mm512_slli_epi32(_mm512_srli_epi32(lane, 3), 1);
    const __m512i bias = Numbers<kLength>(stage.At(0, Stage::kBias));
    __m512i sums[4] = {bias, bias, bias, bias};
    for (size_t quad = 0; quad < stage.quads; ++quad) {
      const __m512i matrix = Numbers<kLength>(stage.Matrix(0) + quad * kLanes * kQuad);
      const __m512i from =
          _mm512_add_epi32(pixel_quad, _mm512_set1_epi32(static_cast<int32_t>(quad)));
#pragma GCC unroll 4
      for (int32_t j = 0; j < 4; ++j) {
        const __m512i there = _mm512_add_epi32(from, _mm512_set1_epi32(4 * j));
        sums[j] = _mm512_dpbusd_epi32(sums[j], _mm512_permutexvar_epi32(there, x), matrix);
      }
    }
    const __m512i shift = Numbers<kLength>(stage.At(0, Stage::kShift));
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) sums[j] = _mm512_srav_epi32(sums[j], shift);
    const __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]),
                                               _mm512_packs_epi32(sums[2], sums[3]));
    const __m512i back = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(back, packed);
  }

  template <size_t kLength>
  THINMAPS_AVX512_LOOP static size_t EncodePixels(const Line& line, const uint8_t* row,
                                                  ptrdiff_t pixel_bytes, size_t pixels,
                                                  Sink* sink) {
    constexpr size_t kPixels = 64 / kLength;
    const uint64_t asked = Asked<kLength>(line.group.components);
    const size_t bits = line.group.components * kPixels;
    if (bits == 0) return 0;
    const __m512i zero_codes = Bytes<kLength>(line.zero_codes.data());
    size_t first = 0;
    // While a whole register may be stored.
    for (; first + kPixels <= pixels && sink->end - sink->value >= 64; first += kPixels) {
      const uint8_t* from = row + static_cast<ptrdiff_t>(first) * pixel_bytes;
      __m512i x;
      if (line.channels.in_place) {
        x = Load<kLength>(from + line.channels.order[0], pixel_bytes);
      } else {
        alignas(64) uint8_t elements[64];
        for (size_t i = 0; i < kPixels; ++i, from += pixel_bytes) {
          line.channels.Take(from, elements + i * kLength);
        }
        x = _mm512_load_si512(elements);
      }
      const __m512i codes = ApplyWide<kLength>(line.group.analysis, x);
      const __m512i bytes = _mm512_sub_epi8(codes, zero_codes);
      const uint64_t present =
          sink->plain ? asked : _mm512_mask_test_epi8_mask(asked, bytes, bytes);
      _mm512_storeu_si512(sink->value, _mm512_maskz_compress_epi8(present, bytes));
      sink->value += std::popcount(present);
      if (!sink->plain) sink->bitmap.Append(_pext_u64(present, asked), bits);
    }
    return first;
  }

  template <size_t kLength>
  THINMAPS_AVX512_LOOP static size_t DecodePixels(const Line& line, uint8_t* row,
                                                  ptrdiff_t pixel_bytes, size_t pixels,
                                                  Source* source, bool* good) {
    constexpr size_t kPixels = 64 / kLength;
    const size_t bits = line.group.components * kPixels;
    if (bits == 0) return 0;
    const uint64_t asked = Asked<kLength>(line.group.components);
    const __m512i zero_codes = Bytes<kLength>(line.zero_codes.data());
    const __m512i low = Bytes<kLength>(line.group.analysis.Bytes(0, Stage::kLow));
    const __m512i high = Bytes<kLength>(line.group.analysis.Bytes(0, Stage::kHigh));
    uint64_t wrong = 0;
    size_t first = 0;
    for (; first + kPixels <= pixels; first += kPixels) {
      const uint64_t present = _pdep_u64(source->TakeBits(bits), asked);
      const size_t stored = static_cast<size_t>(std::popcount(present));
      const uint64_t readable = stored == 0 ? 0 : ~uint64_t{0} >> (64 - stored);
      const __m512i values = _mm512_maskz_loadu_epi8(readable, source->value);
      source->value += stored;
      const __m512i codes = _mm512_add_epi8(_mm512_maskz_expand_epi8(present, values), zero_codes);
      wrong |= _mm512_cmplt_epu8_mask(codes, low) | _mm512_cmpgt_epu8_mask(codes, high);
      alignas(64) uint8_t elements[64];
      _mm512_store_si512(elements, ApplyWide<kLength>(line.group.synthesis, codes));
      for (size_t i = 0; i < kPixels; ++i, row += pixel_bytes) {
        line.channels.Put(elements + i * kLength, row);
      }
    }
    *good &= wrong == 0;
    return first;
  }
};

#endif

}  // namespace

extern const CodecKernel kChannelDct{"channel_dct", Isa::kPortable, Encode<PortableRows>,
                                     Decode<PortableRows>};
#if defined(__x86_64__)
extern const CodecKernel kChannelDctAvx512{"channel_dct", Isa::kAvx512, Encode<Avx512Rows>,
                                           Decode<Avx512Rows>};
#endif

}  // namespace thinmaps
