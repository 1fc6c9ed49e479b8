// SPDX-License-Identifier: Apache-2.0
// Native twin of zero_bitmap.py, which specifies the payload.
//
// A unit is a sequence of runs (contiguous elements), a run a sequence of chunks of up to 64
// elements: one word of presence bits each. Only the work on a chunk differs by instruction set.
#include <algorithm>
#include <bit>

#include "codec.h"
#include "little_endian.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define THINMAPS_AVX2 [[gnu::target("avx2,bmi,bmi2,popcnt")]]
#define THINMAPS_AVX512 [[gnu::target("avx512f,avx512bw,avx512vbmi2,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps {
namespace {

constexpr size_t kChunk = 64;

size_t Elements(const CodecSpec& spec, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) *
         static_cast<size_t>(spec.channels);
}

size_t BitmapBytes(size_t elements) { return (elements + 7) / 8; }

uint64_t LowBits(size_t count) { return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0}; }

// Appends up to 64 bits at a time, in the order of bits.py.
struct BitWriter {
  uint8_t* out;
  uint64_t held = 0;
  size_t held_bits = 0;

  void Append(uint64_t bits, size_t count) {
    held |= bits << held_bits;
    if (held_bits + count < 64) {
      held_bits += count;
      return;
    }
    Store64(held, out);
    out += 8;
    const size_t taken = 64 - held_bits;
    held = taken < 64 ? bits >> taken : 0;
    held_bits = count - taken;
  }

  void Flush() { StorePart(held, out, (held_bits + 7) / 8); }
};

// Takes up to 64 bits at a time from a bitmap that is long enough for all of them.
struct BitReader {
  std::span<const uint8_t> bitmap;
  size_t position = 0;

  uint64_t Take(size_t count) {
    const auto left = bitmap.subspan(position / 8);
    const size_t shift = position % 8;
    position += count;
    if (left.size() <= 8) return LoadPart(left.data(), left.size()) >> shift & LowBits(count);
    const uint64_t above = shift == 0 ? 0 : uint64_t{left[8]} << (64 - shift);
    return (Load64(left.data()) >> shift | above) & LowBits(count);
  }
};

struct EncodeState {
  BitWriter presence;
  uint8_t* value;  // has room for every element that is still to come
  uint8_t zero;
};

struct DecodeState {
  BitReader presence;
  std::span<const uint8_t> values;  // as many as presence bits are still to come
  uint8_t zero;
  bool good = true;  // no value was zero so far
};

// A value is stored always and kept only if it is not zero, which costs no branch.
void EncodeChunk(const uint8_t* in, size_t count, EncodeState* state) {
  uint64_t present = 0;
  uint8_t* value = state->value;
  for (size_t i = 0; i < count; ++i) {
    const bool kept = in[i] != state->zero;
    *value = in[i];
    value += kept;
    present |= uint64_t{kept} << i;
  }
  state->value = value;
  state->presence.Append(present, count);
}

void DecodeChunk(uint8_t* out, size_t count, DecodeState* state) {
  const uint64_t present = state->presence.Take(count);
  const auto kept = static_cast<size_t>(std::popcount(present));
  std::fill_n(out, count, state->zero);
  uint64_t left = present;
  for (const uint8_t value : state->values.first(kept)) {
    out[std::countr_zero(left)] = value;
    left &= left - 1;
    state->good &= value != state->zero;
  }
  state->values = state->values.subspan(kept);
}

#if defined(__x86_64__)

// One bit for each of the 64 elements that equals zero.
THINMAPS_AVX2 uint64_t ZerosAvx2(const uint8_t* elements, uint8_t zero) {
  const __m256i zeros = _mm256_set1_epi8(static_cast<char>(zero));
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements + 32));
  const int low_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(low, zeros));
  const int high_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, zeros));
  return uint64_t{static_cast<uint32_t>(high_bits)} << 32 | static_cast<uint32_t>(low_bits);
}

// Presence bits 0 to 7, each spread to a byte: what pext keeps and pdep fills.
THINMAPS_AVX2 uint64_t SpreadAvx2(uint64_t present) {
  return _pdep_u64(present, 0x0101010101010101) * 0xFF;
}

THINMAPS_AVX2 void EncodeChunkAvx2(const uint8_t* in, size_t count, EncodeState* state) {
  if (count < kChunk) return EncodeChunk(in, count, state);
  const uint64_t present = ~ZerosAvx2(in, state->zero);
  uint8_t* value = state->value;
  for (size_t i = 0; i < kChunk; i += 8) {
    // At most i values precede these, so all eight bytes lie in the room for the chunk.
    Store64(_pext_u64(Load64(in + i), SpreadAvx2(present >> i)), value);
    value += std::popcount(present >> i & 0xFF);
  }
  state->value = value;
  state->presence.Append(present, kChunk);
}

THINMAPS_AVX2 void DecodeChunkAvx2(uint8_t* out, size_t count, DecodeState* state) {
  // Eight values are read at a time, though fewer may be this chunk's.
  if (count < kChunk || state->values.size() < kChunk) return DecodeChunk(out, count, state);
  const uint64_t present = state->presence.Take(kChunk);
  const uint64_t zeros = uint64_t{0x0101010101010101} * state->zero;
  const uint8_t* value = state->values.data();
  for (size_t i = 0; i < kChunk; i += 8) {
    const uint64_t kept = SpreadAvx2(present >> i);
    Store64(_pdep_u64(Load64(value), kept) | (zeros & ~kept), out + i);
    value += std::popcount(present >> i & 0xFF);
  }
  state->good &= (ZerosAvx2(out, state->zero) & present) == 0;
  state->values = state->values.subspan(static_cast<size_t>(std::popcount(present)));
}

// Compresses into a register: the form that writes to memory is several times slower.
THINMAPS_AVX512 void EncodeChunkAvx512(const uint8_t* in, size_t count, EncodeState* state) {
  const __mmask64 chunk = LowBits(count);
  const __m512i x = _mm512_maskz_loadu_epi8(chunk, in);
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(state->zero));
  const __mmask64 present = _mm512_mask_cmpneq_epi8_mask(chunk, x, zero);
  const __m512i kept = _mm512_maskz_compress_epi8(present, x);
  if (count == kChunk) {
    _mm512_storeu_si512(state->value, kept);
  } else {
    _mm512_mask_storeu_epi8(state->value, chunk, kept);
  }
  state->value += std::popcount(uint64_t{present});
  state->presence.Append(present, count);
}

THINMAPS_AVX512 void DecodeChunkAvx512(uint8_t* out, size_t count, DecodeState* state) {
  const __mmask64 present = state->presence.Take(count);
  const auto kept = static_cast<size_t>(std::popcount(uint64_t{present}));
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(state->zero));
  const __mmask64 stored = LowBits(kept);
  const __m512i values = state->values.size() >= kChunk
                             ? _mm512_loadu_si512(state->values.data())
                             : _mm512_maskz_loadu_epi8(stored, state->values.data());
  state->good &= _mm512_mask_cmpeq_epi8_mask(stored, values, zero) == 0;
  const __m512i x = _mm512_mask_expand_epi8(zero, present, values);
  if (count == kChunk) {
    _mm512_storeu_si512(out, x);
  } else {
    _mm512_mask_storeu_epi8(out, LowBits(count), x);
  }
  state->values = state->values.subspan(kept);
}

#endif

size_t CountBits(std::span<const uint8_t> bitmap) {
  size_t count = 0;
  size_t i = 0;
  for (; i + 8 <= bitmap.size(); i += 8) {
    count += static_cast<size_t>(std::popcount(Load64(bitmap.data() + i)));
  }
  return count + static_cast<size_t>(std::popcount(LoadPart(bitmap.data() + i, bitmap.size() - i)));
}

template <auto kEncodeChunk>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  // With room for the worst case, neither stream can leave the payload.
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes + elements) return Status::kTooSmall;

  EncodeState state{
      {payload.data()}, payload.data() + bitmap_bytes, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, spec.width, spec.channels, [&state](const uint8_t* in, size_t bytes) {
    for (size_t i = 0; i < bytes; i += kChunk) {
      kEncodeChunk(in + i, std::min(kChunk, bytes - i), &state);
    }
  });
  state.presence.Flush();
  *written = static_cast<size_t>(state.value - payload.data());
  return Status::kOk;
}

template <auto kDecodeChunk>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  const size_t elements = Elements(spec, rows.count);
  const size_t bitmap_bytes = BitmapBytes(elements);
  if (payload.size() < bitmap_bytes) return Status::kCorruptPayload;

  // With no spare bit set and one value for each set bit, no chunk reads past the values.
  const auto bitmap = payload.first(bitmap_bytes);
  const auto values = payload.subspan(bitmap_bytes);
  if (elements % 8 != 0 && bitmap.back() >> (elements % 8) != 0) return Status::kCorruptPayload;
  if (values.size() != CountBits(bitmap)) return Status::kCorruptPayload;

  DecodeState state{{bitmap}, values, static_cast<uint8_t>(spec.zero_point)};
  ForEachRun(rows, columns, spec.channels, [&state](uint8_t* out, size_t bytes) {
    for (size_t i = 0; i < bytes; i += kChunk) {
      kDecodeChunk(out + i, std::min(kChunk, bytes - i), &state);
    }
  });
  return state.good ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace

extern const CodecKernel kZeroBitmap{"zero_bitmap", Isa::kPortable, Encode<EncodeChunk>,
                                     Decode<DecodeChunk>};
#if defined(__x86_64__)
extern const CodecKernel kZeroBitmapAvx2{"zero_bitmap", Isa::kAvx2, Encode<EncodeChunkAvx2>,
                                         Decode<DecodeChunkAvx2>};
extern const CodecKernel kZeroBitmapAvx512{"zero_bitmap", Isa::kAvx512, Encode<EncodeChunkAvx512>,
                                           Decode<DecodeChunkAvx512>};
#endif

}  // namespace thinmaps
