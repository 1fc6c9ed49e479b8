// SPDX-License-Identifier: Apache-2.0
// Native twin of mixed_width.py, which specifies the payload and the arithmetic: AVX-512 with VBMI
// and VBMI2.
//
// As in narrow_avx512.cc, chunks of 64 elements that begin at one channel are done together, so
// that what depends on the channel stays in registers: levels, and where each code's bits lie among
// those of its chunk. But chunks begin at any bit, and a byte may hold bits of two. An encoder
// therefore does every second chunk first, with whole bytes, and then those between them, which
// keep what their first and last byte already have.
#include "mixed_width.h"

#if defined(__x86_64__)
#include <algorithm>
#include <bit>
#include <numeric>

#include "intrinsics.h"
#include "levels_avx512.h"
#define THINMAPS_AVX512_TARGET \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi,bmi2,popcnt"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#define THINMAPS_AVX512_INLINE [[gnu::target(THINMAPS_AVX512_TARGET), gnu::always_inline]] inline

namespace thinmaps {
namespace {

constexpr size_t kChunk = 64;
constexpr size_t kLanes = 8;         // of 64 bits
constexpr size_t kJoins = 3;         // 8 lanes become one in so many
constexpr size_t kLargestCodes = 3;  // a row of narrow.byte_tables

uint64_t LowBits(size_t count) { return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0}; }

THINMAPS_AVX512_INLINE __m512i Set1(uint64_t bits) {
  return _mm512_set1_epi64(static_cast<long long>(bits));
}

// How many bits each of 64 codes has, from the largest codes.
THINMAPS_AVX512_INLINE __m512i WidthsOf(__m512i largest) {
  const __m512i half = _mm512_set1_epi8(15);
  const __m512i ones =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(largest, 4), half);
  return _mm512_add_epi8(_mm512_shuffle_epi8(ones, _mm512_and_si512(largest, half)),
                         _mm512_shuffle_epi8(ones, high));
}

// Of each lane of 64 bits the sum of its bytes.
THINMAPS_AVX512_INLINE __m512i LaneSums(__m512i bytes) {
  return _mm512_sad_epu8(bytes, _mm512_setzero_si512());
}

THINMAPS_AVX512 size_t ChunkBits(const ByteTables& tables, size_t channel) {
  const __m512i widths = WidthsOf(tables.Bytes(kLargestCodes, channel));
  return static_cast<size_t>(_mm512_reduce_add_epi64(LaneSums(widths)));
}

// 64 codes to their bits: within lanes neighbours join to fields of 2, 4 and 8 codes, then lanes to
// fields of 2, 4 and 8 lanes.
class Packer {
 public:
  THINMAPS_AVX512_INLINE explicit Packer(__m512i largest) {
    const __m512i one = WidthsOf(largest);
    // The bits of the lower of two fields say by how much the upper one comes down.
    const __m512i lower = _mm512_and_si512(one, _mm512_set1_epi16(0xFF));
    const __m512i two = _mm512_add_epi16(lower, _mm512_srli_epi16(one, 8));
    const __m512i lower_two = _mm512_and_si512(two, _mm512_set1_epi32(0xFF));
    const __m512i four = _mm512_add_epi32(lower_two, _mm512_srli_epi32(two, 16));
    const __m512i lower_four = _mm512_and_si512(four, Set1(0xFF));
    gap_[0] = _mm512_sub_epi16(_mm512_set1_epi16(8), lower);
    gap_[1] = _mm512_sub_epi32(_mm512_set1_epi32(16), lower_two);
    gap_[2] = _mm512_sub_epi64(Set1(32), lower_four);
    low_[0] = _mm512_and_si512(largest, _mm512_set1_epi16(0xFF));
    low_[1] =
        _mm512_sub_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), lower_two), _mm512_set1_epi32(1));
    low_[2] = _mm512_sub_epi64(_mm512_sllv_epi64(Set1(1), lower_four), Set1(1));
    __m512i bits = LaneSums(one);
    SetJoin(0, _mm512_permutex_epi64(bits, 0xA0));
    bits = _mm512_add_epi64(bits, _mm512_permutex_epi64(bits, 0xB1));
    SetJoin(1, _mm512_permutex_epi64(bits, 0x00));
    bits = _mm512_add_epi64(bits, _mm512_permutex_epi64(bits, 0x4E));
    SetJoin(2, _mm512_broadcastq_epi64(_mm512_castsi512_si128(bits)));
  }

  THINMAPS_AVX512_INLINE __m512i Pack(__m512i x) const {
    constexpr int kChoose = 0xCA;  // of three operands the second where the first is set
    x = _mm512_ternarylogic_epi64(low_[0], x, _mm512_srlv_epi16(x, gap_[0]), kChoose);
    x = _mm512_ternarylogic_epi64(low_[1], x, _mm512_srlv_epi32(x, gap_[1]), kChoose);
    x = _mm512_ternarylogic_epi64(low_[2], x, _mm512_srlv_epi64(x, gap_[2]), kChoose);
    x = Join(x, 0, 0x55);
    x = Join(x, 1, 0x33);
    return Join(x, 2, 0x0F);
  }

 private:
  // Of `2 << join` lanes, the upper half moves down to where the `bits` of the lower half end.
  THINMAPS_AVX512_INLINE void SetJoin(size_t join, __m512i bits) {
    const __m512i half = Set1(uint64_t{1} << join);
    const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i within = _mm512_and_si512(lane, Set1((uint64_t{2} << join) - 1));
    const __m512i upper = _mm512_add_epi64(_mm512_sub_epi64(lane, within), half);
    const __m512i from = _mm512_sub_epi64(within, _mm512_srli_epi64(bits, 6));
    const __m512i below = _mm512_sub_epi64(from, Set1(1));
    // Lane 0 of the second operand of the permutation is 0.
    const __m512i none = Set1(kLanes);
    from_[join] = _mm512_mask_add_epi64(none, _mm512_cmplt_epu64_mask(from, half), upper, from);
    below_[join] = _mm512_mask_add_epi64(none, _mm512_cmplt_epu64_mask(below, half), upper, below);
    shift_[join] = bits;  // of which the instruction takes the low 6
  }

  THINMAPS_AVX512_INLINE __m512i Join(__m512i x, size_t join, __mmask8 lower) const {
    const __m512i none = _mm512_setzero_si512();
    const __m512i moved =
        _mm512_shldv_epi64(_mm512_permutex2var_epi64(x, from_[join], none),
                           _mm512_permutex2var_epi64(x, below_[join], none), shift_[join]);
    return _mm512_mask_or_epi64(moved, lower, moved, x);
  }

  __m512i gap_[kJoins], low_[kJoins];
  __m512i from_[kJoins], below_[kJoins], shift_[kJoins];
};

// And back: every lane takes the 64 bits from its first one on, every byte its code of those.
class Unpacker {
 public:
  THINMAPS_AVX512_INLINE explicit Unpacker(__m512i largest) : largest_(largest) {
    // Of each byte the bits below it in its lane, by a product with ones; then of each lane.
    const __m512i widths = WidthsOf(largest);
    first_ = _mm512_slli_epi64(_mm512_mullo_epi64(widths, Set1(0x0101010101010101)), 8);
    const __m512i none = _mm512_setzero_si512();
    first_bit_ = _mm512_alignr_epi64(LaneSums(widths), none, 7);
    first_bit_ = _mm512_add_epi64(first_bit_, _mm512_alignr_epi64(first_bit_, none, 7));
    first_bit_ = _mm512_add_epi64(first_bit_, _mm512_alignr_epi64(first_bit_, none, 6));
    first_bit_ = _mm512_add_epi64(first_bit_, _mm512_alignr_epi64(first_bit_, none, 4));
    from_ = _mm512_srli_epi64(first_bit_, 6);
    above_ = _mm512_add_epi64(from_, Set1(1));  // of the last lane only bits that no code has
  }

  THINMAPS_AVX512_INLINE __m512i Unpack(__m512i packed) const {
    const __m512i words = _mm512_shrdv_epi64(_mm512_permutexvar_epi64(from_, packed),
                                             _mm512_permutexvar_epi64(above_, packed), first_bit_);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(first_, words), largest_);
  }

 private:
  __m512i largest_, first_, first_bit_, from_, above_;
};

// Where chunks lie: those of a class, as many apart as there are classes, begin at one channel.
struct Geometry {
  size_t channels, elements, chunks, sets;
  size_t pixel_bits = 0;
  size_t row_bits, row_bytes;

  Geometry(const CodecSpec& spec, const ByteTables& tables, int32_t columns)
      : channels(static_cast<size_t>(spec.channels)),
        elements(channels * static_cast<size_t>(columns)),
        chunks((elements + kChunk - 1) / kChunk),
        sets(channels / std::gcd(channels, kChunk)) {
    const uint8_t* largest = tables.tables + kLargestCodes * tables.length;
    for (size_t i = 0; i < channels; ++i) {
      pixel_bits += static_cast<size_t>(std::popcount(largest[i]));
    }
    row_bits = static_cast<size_t>(spec.width) * pixel_bits;
    row_bytes = (row_bits + 7) / 8;
  }

  size_t Channel(size_t chunk) const { return chunk * kChunk % channels; }
  size_t Count(size_t chunk) const { return std::min(kChunk, elements - chunk * kChunk); }
  // From any chunk to the next one of its class; `classes` is a multiple of `sets`.
  size_t StrideBits(size_t classes) const { return classes * kChunk / channels * pixel_bits; }

  // Whether rows are dense and classes have so many chunks that their constants are worth making.
  template <typename Rows>
  bool Pays(const Rows& rows, size_t classes) const {
    constexpr size_t kLeastChunks = 8;
    return rows.pixel_bytes == static_cast<ptrdiff_t>(channels) &&
           chunks * static_cast<size_t>(rows.count) >= kLeastChunks * classes;
  }

  // Whether a byte has bits of two chunks at most, and 64 bytes those of any chunk.
  bool HasCommonChunks(const ByteTables& tables) const {
    bool common = true;
    for (size_t set = 0; set < sets; ++set) {
      const size_t bits = ChunkBits(tables, Channel(set));
      common &= bits >= 8 && bits <= 8 * kChunk - 7;
    }
    return common;
  }
};

// The bytes of the bits from `bit` to before `end` of a row. `kept` has the first and the last one
// where neighbours have bits in them.
struct Span {
  uint8_t* bytes;
  __mmask64 used, kept;
  size_t phase;

  THINMAPS_AVX512_INLINE Span(uint8_t* row, size_t bit, size_t end, size_t row_bits)
      : bytes(row + bit / 8), phase(bit % 8) {
    const size_t count = (phase + end - bit + 7) / 8;
    used = _bzhi_u64(~uint64_t{0}, static_cast<uint32_t>(count));
    const bool shares_last = end % 8 != 0 && end != row_bits;
    kept = uint64_t{phase != 0} | (shares_last ? used ^ used >> 1 : 0);
  }

  THINMAPS_AVX512_INLINE __m512i Shifted(__m512i packed) const {
    const __m512i below = _mm512_alignr_epi64(packed, _mm512_setzero_si512(), kLanes - 1);
    return _mm512_shldv_epi64(packed, below, _mm512_set1_epi64(static_cast<long long>(phase)));
  }
};

struct Class {
  size_t channel, first_chunk, first_bit, chunk_bits, stride, stride_bits;
};

// `merges` where the chunks between these were written before.
THINMAPS_AVX512 void EncodeClass(const CodecSpec& spec, const Geometry& all,
                                 const ByteTables& tables, const Class& one, bool merges,
                                 const ConstRows& rows, uint8_t* payload) {
  const Packer packer(tables.Bytes(kLargestCodes, one.channel));
  const Quantiser quantiser(spec, tables, one.channel);
  for (int32_t row = 0; row < rows.count; ++row) {
    uint8_t* out = payload + static_cast<size_t>(row) * all.row_bytes;
    size_t bit = one.first_bit;
    for (size_t chunk = one.first_chunk; chunk < all.chunks; chunk += one.stride) {
      const __mmask64 used = LowBits(all.Count(chunk));
      const __m512i x = _mm512_maskz_loadu_epi8(used, rows.rows[row] + chunk * kChunk);
      const __m512i codes = _mm512_maskz_mov_epi8(used, quantiser.Codes(x));
      const Span span(out, bit, std::min(bit + one.chunk_bits, all.row_bits), all.row_bits);
      __m512i packed = span.Shifted(packer.Pack(codes));
      if (merges) {
        packed = _mm512_or_si512(packed, _mm512_maskz_loadu_epi8(span.kept, span.bytes));
      }
      _mm512_mask_storeu_epi8(span.bytes, span.used, packed);
      bit += one.stride_bits;
    }
  }
}

THINMAPS_AVX512 bool DecodeClass(const CodecSpec& spec, const Geometry& all,
                                 const ByteTables& tables, const Class& one,
                                 std::span<const uint8_t> payload, const MutableRows& rows) {
  const Unpacker unpacker(tables.Bytes(kLargestCodes, one.channel));
  Restorer restorer(spec, tables, one.channel);
  for (int32_t row = 0; row < rows.count; ++row) {
    const auto packed = payload.subspan(static_cast<size_t>(row) * all.row_bytes, all.row_bytes);
    size_t bit = one.first_bit;
    for (size_t chunk = one.first_chunk; chunk < all.chunks; chunk += one.stride) {
      const __mmask64 used = LowBits(all.Count(chunk));
      // 64 bytes, and once more from the ninth on, so that they can move by the bits before.
      const auto left = packed.subspan(bit / 8);
      const auto above = left.subspan(std::min<size_t>(8, left.size()));
      const __m512i bytes =
          _mm512_shrdv_epi64(_mm512_maskz_loadu_epi8(LowBits(left.size()), left.data()),
                             _mm512_maskz_loadu_epi8(LowBits(above.size()), above.data()),
                             _mm512_set1_epi64(static_cast<long long>(bit % 8)));
      _mm512_mask_storeu_epi8(rows.rows[row] + chunk * kChunk, used,
                              restorer.Bytes(unpacker.Unpack(bytes), used));
      bit += one.stride_bits;
    }
  }
  return restorer.wrong == 0;
}

// Calls visit(class) for every one of `classes`, a multiple of the sets.
template <typename Visit>
void ForEachClass(const Geometry& all, const ByteTables& tables, size_t classes, Visit visit) {
  size_t bit = 0;
  for (size_t first = 0; first < std::min(classes, all.chunks); ++first) {
    const size_t channel = all.Channel(first);
    const size_t bits = ChunkBits(tables, channel);
    visit(Class{channel, first, bit, bits, classes, all.StrideBits(classes)});
    bit += bits;
  }
}

Status EncodeAvx512(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                    size_t* written) {
  ByteTables tables;
  if (spec.channels < 1 || !ReadByteTables(spec, &tables)) return Status::kBadArgument;
  const Geometry all(spec, tables, spec.width);
  const size_t classes = std::lcm(all.sets, size_t{2});
  if (!all.Pays(rows, classes) || !all.HasCommonChunks(tables)) {
    return mixed_width::EncodeRunsAvx512(spec, rows, payload, written);
  }
  const size_t unit_bytes = static_cast<size_t>(rows.count) * all.row_bytes;
  if (payload.size() < unit_bytes) return Status::kTooSmall;
  for (const size_t odd : {size_t{0}, size_t{1}}) {
    ForEachClass(all, tables, classes, [&](const Class& one) {
      if (one.first_chunk % 2 != odd) return;
      EncodeClass(spec, all, tables, one, odd == 1, rows, payload.data());
    });
  }
  *written = unit_bytes;
  return Status::kOk;
}

Status DecodeAvx512(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
                    int32_t columns, const MutableRows& rows) {
  ByteTables tables;
  if (spec.channels < 1 || !ReadByteTables(spec, &tables)) return Status::kBadArgument;
  const Geometry all(spec, tables, columns);
  if (!all.Pays(rows, all.sets)) {
    return mixed_width::DecodeRunsAvx512(spec, payload, column, columns, rows);
  }
  if (payload.size() != static_cast<size_t>(rows.count) * all.row_bytes) {
    return Status::kCorruptPayload;
  }
  const size_t spare = all.row_bits % 8;
  for (size_t row = 1; spare != 0 && row <= static_cast<size_t>(rows.count); ++row) {
    if (payload[row * all.row_bytes - 1] >> spare != 0) return Status::kCorruptPayload;
  }
  const size_t column_bits = static_cast<size_t>(column) * all.pixel_bits;
  bool good = true;
  ForEachClass(all, tables, all.sets, [&](Class one) {
    one.first_bit += column_bits;
    good &= DecodeClass(spec, all, tables, one, payload, rows);
  });
  return good ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace

extern const CodecKernel kMixedWidthAvx512{"mixed_width", Isa::kAvx512, EncodeAvx512, DecodeAvx512};

}  // namespace thinmaps

#endif
