// SPDX-License-Identifier: Apache-2.0
// Native twin of narrow.py, which specifies the payload and the arithmetic: AVX-512 with VBMI.
//
// Every 64 elements take whole bytes, so that chunks of 64 may be done in any order: first those
// that begin at channel 0, then those of the next channel at which any begins. The tables of a
// channel are thus loaded once and stay in registers.
#include "narrow.h"

#if defined(__x86_64__)
#include <numeric>

#include "intrinsics.h"
#include "levels_avx512.h"
#define THINMAPS_AVX512_TARGET \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,bmi2,prefer-vector-width=512"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_INLINE [[gnu::target(THINMAPS_AVX512_TARGET), gnu::always_inline]] inline
#define THINMAPS_AVX512_FLATTEN [[gnu::flatten, gnu::target(THINMAPS_AVX512_TARGET)]]

namespace thinmaps {
namespace {

using namespace narrow;

constexpr size_t kChunk = 64;
uint64_t LowBits(size_t count) { return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0}; }

// 64 codes to 8 * bits bytes: neighbours join to fields of 2, 4 and 8 codes, which close up.
struct Packer {
  __m512i pair, quad, eight, close;
  __m128i gap;

  THINMAPS_AVX512_INLINE explicit Packer(size_t bits)
      : pair(_mm512_set1_epi16(static_cast<short>(1 | 1 << (8 + bits)))),
        quad(_mm512_set1_epi32(1 | 1 << (16 + 2 * bits))),
        eight(_mm512_set1_epi64((1LL << 4 * bits) - 1)),
        gap(_mm_cvtsi64_si128(static_cast<long long>(32 - 4 * bits))) {
    alignas(64) uint8_t from[kChunk];
    for (size_t i = 0; i < kChunk; ++i) {
      from[i] = static_cast<uint8_t>((8 * (i / bits) + i % bits) % kChunk);
    }
    close = _mm512_load_si512(from);
  }

  THINMAPS_AVX512_INLINE __m512i Pack(__m512i codes) const {
    constexpr int kChoose = 0xCA;  // of three operands the second where the first is set
    const __m512i pairs = _mm512_maddubs_epi16(pair, codes);
    const __m512i quads = _mm512_madd_epi16(pairs, quad);
    const __m512i shifted = _mm512_srl_epi64(quads, gap);
    const __m512i eights = _mm512_ternarylogic_epi64(eight, quads, shifted, kChoose);
    return _mm512_permutexvar_epi8(close, eights);
  }
};

// And back, of bits that begin at bit `phase` < 8: every group of eight is in the 64 bits from the
// byte on in which it begins.
struct Unpacker {
  __m512i spread, shift, field;

  THINMAPS_AVX512_INLINE Unpacker(size_t bits, size_t phase)
      : field(_mm512_set1_epi8(static_cast<char>((1 << bits) - 1))) {
    alignas(64) uint8_t from[kChunk], first[kChunk];
    for (size_t i = 0; i < kChunk; ++i) {
      from[i] = static_cast<uint8_t>(bits * (i / 8) + i % 8);
      first[i] = static_cast<uint8_t>(phase + bits * (i % 8));
    }
    spread = _mm512_load_si512(from);
    shift = _mm512_load_si512(first);
  }

  THINMAPS_AVX512_INLINE __m512i Unpack(__m512i packed) const {
    const __m512i groups = _mm512_permutexvar_epi8(spread, packed);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, groups), field);
  }
};

struct Geometry {
  size_t bits, channels, elements, chunks, sets;

  Geometry(size_t element_bits, size_t channels_of_all, int32_t columns)
      : bits(element_bits),
        channels(channels_of_all),
        elements(channels * static_cast<size_t>(columns)),
        chunks((elements + kChunk - 1) / kChunk),
        sets(channels / std::gcd(channels, kChunk)) {}

  size_t Count(size_t chunk) const { return std::min(kChunk, elements - chunk * kChunk); }
};

// Rows of a unit whose pixels touch. `payload` has whole rows.
THINMAPS_AVX512 void EncodeDense(const CodecSpec& spec, const Geometry& all,
                                 const ByteTables& tables, const ConstRows& rows, uint8_t* payload,
                                 size_t row_bytes) {
  const Packer packer(all.bits);
  for (size_t set = 0; set < std::min(all.sets, all.chunks); ++set) {
    const Quantiser quantiser(spec, tables, set * kChunk % all.channels);
    for (int32_t row = 0; row < rows.count; ++row) {
      const uint8_t* in = rows.rows[row];
      uint8_t* out = payload + static_cast<size_t>(row) * row_bytes;
      for (size_t chunk = set; chunk < all.chunks; chunk += all.sets) {
        const size_t count = all.Count(chunk);
        const __mmask64 used = LowBits(count);
        const __m512i x = _mm512_maskz_loadu_epi8(used, in + chunk * kChunk);
        const __m512i codes = _mm512_maskz_mov_epi8(used, quantiser.Codes(x));
        _mm512_mask_storeu_epi8(out + chunk * 8 * all.bits, LowBits((count * all.bits + 7) / 8),
                                packer.Pack(codes));
      }
    }
  }
}

// The same of the columns from `column` on; returns whether every code is one that is written.
THINMAPS_AVX512 bool DecodeDense(const CodecSpec& spec, const Geometry& all,
                                 const ByteTables& tables, std::span<const uint8_t> payload,
                                 size_t row_bytes, int32_t column, const MutableRows& rows) {
  const size_t first_bit = static_cast<size_t>(column) * all.channels * all.bits;
  const Unpacker unpacker(all.bits, first_bit % 8);
  __mmask64 wrong = 0;
  for (size_t set = 0; set < std::min(all.sets, all.chunks); ++set) {
    Restorer restorer(spec, tables, set * kChunk % all.channels);
    for (int32_t row = 0; row < rows.count; ++row) {
      const auto packed = payload.subspan(static_cast<size_t>(row) * row_bytes, row_bytes);
      for (size_t chunk = set; chunk < all.chunks; chunk += all.sets) {
        const __mmask64 used = LowBits(all.Count(chunk));
        const auto left = packed.subspan(first_bit / 8 + chunk * 8 * all.bits);
        const __m512i bytes = _mm512_maskz_loadu_epi8(LowBits(left.size()), left.data());
        _mm512_mask_storeu_epi8(rows.rows[row] + chunk * kChunk, used,
                                restorer.Bytes(unpacker.Unpack(bytes), used));
      }
    }
    wrong |= restorer.wrong;
  }
  return wrong == 0;
}

THINMAPS_AVX512_FLATTEN Status EncodeAvx512(const CodecSpec& spec, const ConstRows& rows,
                                            std::span<uint8_t> payload, size_t* written) {
  Tables tables;
  ByteTables bytes;
  if (!ReadTables(spec, &tables) || !ReadByteTables(spec, &bytes)) return Status::kBadArgument;
  if (rows.pixel_bytes != spec.channels) return Encode(spec, rows, payload, written);
  const size_t row_bytes = RowBytes(spec, tables.bits);
  const size_t unit_bytes = static_cast<size_t>(rows.count) * row_bytes;
  if (payload.size() < unit_bytes) return Status::kTooSmall;
  const Geometry all(tables.bits, tables.channels, spec.width);
  EncodeDense(spec, all, bytes, rows, payload.data(), row_bytes);
  *written = unit_bytes;
  return Status::kOk;
}

THINMAPS_AVX512_FLATTEN Status DecodeAvx512(const CodecSpec& spec, std::span<const uint8_t> payload,
                                            int32_t column, int32_t columns,
                                            const MutableRows& rows) {
  Tables tables;
  ByteTables bytes;
  if (!ReadTables(spec, &tables) || !ReadByteTables(spec, &bytes)) return Status::kBadArgument;
  if (rows.pixel_bytes != spec.channels) return Decode(spec, payload, column, columns, rows);
  if (!HasWholeRows(spec, tables, payload, rows.count)) return Status::kCorruptPayload;
  const Geometry all(tables.bits, tables.channels, columns);
  const size_t row_bytes = RowBytes(spec, tables.bits);
  const bool good = DecodeDense(spec, all, bytes, payload, row_bytes, column, rows);
  return good ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace

extern const CodecKernel kNarrowAvx512{"narrow", Isa::kAvx512, EncodeAvx512, DecodeAvx512};

}  // namespace thinmaps

#endif
