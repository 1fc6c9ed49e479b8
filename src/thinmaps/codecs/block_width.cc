// SPDX-License-Identifier: Apache-2.0
// Native twin of block_width.py, which specifies the payload: portable and AVX2.
#include "block_width.h"

#include "sub_bytes.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_BMI2 [[gnu::target("bmi2,popcnt")]]
#define THINMAPS_AVX2 [[gnu::flatten, gnu::target("avx2,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps {
namespace {

using namespace block_width;

// Bit i is set where symbol i is not 0. Eight at a time: the sum carries into the top bit of a byte
// where any bit below is set, and the product brings the top bits together.
uint64_t Present(const uint8_t* symbols) {
  constexpr uint64_t kBelow = 0x7F7F7F7F7F7F7F7F;
  constexpr uint64_t kTogether = 0x0102040810204080;
  uint64_t present = 0;
  for (size_t i = 0; i < kBlock; i += 8) {
    const uint64_t word = Load64(symbols + i);
    const uint64_t set = (((word & kBelow) + kBelow) | word) & ~kBelow;
    present |= (set >> 7) * kTogether >> 56 << i;
  }
  return present;
}

// Bits of the largest symbol.
size_t WidthOf(const uint8_t* symbols) {
  uint64_t all = 0;
  for (size_t i = 0; i < kBlock; i += 8) all |= Load64(symbols + i);
  for (const int half : {32, 16, 8}) all |= all >> half;
  return static_cast<size_t>(std::bit_width(all & 0xFF));
}

// Symbols of 16 positions, each with 16 channels.
constexpr size_t kTile = kPatchChannels;

// How bits and bytes close up and spread: eight symbols to `width` bits each and back, and those of
// a block that are present to the front and back. Transpose makes rows of columns, 16 by 16.
struct PortableBits {
  static void Transpose(const uint8_t* in, size_t in_stride, uint8_t* out, size_t out_stride) {
    for (size_t i = 0; i < kTile; ++i) {
      for (size_t j = 0; j < kTile; ++j) out[i * out_stride + j] = in[j * in_stride + i];
    }
  }
  static uint64_t Close(uint64_t symbols, size_t width) { return Gather(symbols, width); }
  static uint64_t Spread(uint64_t packed, size_t width) {
    return width < 8 ? Scatter(packed & LowBits(8 * width), width) : packed;
  }
  static void Compress(const uint8_t* symbols, uint64_t present, uint8_t* kept) {
    for (; present != 0; present &= present - 1) *kept++ = symbols[std::countr_zero(present)];
  }
  static void Expand(const uint8_t* kept, uint64_t present, uint8_t* symbols) {
    std::fill_n(symbols, kBlock, uint8_t{0});
    for (; present != 0; present &= present - 1) symbols[std::countr_zero(present)] = *kept++;
  }
};

#if defined(__x86_64__)
// Eight bytes at a time; up to seven behind the last one are overwritten or read.
struct Bmi2Bits {
  static constexpr uint64_t kOnes = 0x0101010101010101;

  // Each round turns the bits of (row, byte) by one: after four the two have changed places.
  THINMAPS_BMI2 static void Transpose(const uint8_t* in, size_t in_stride, uint8_t* out,
                                      size_t out_stride) {
    __m128i x[kTile], y[kTile];
    for (size_t i = 0; i < kTile; ++i) {
      x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * in_stride));
    }
    for (int round = 0; round < 4; ++round) {
      for (size_t i = 0; i < 8; ++i) {
        y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
        y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
      }
      std::copy_n(y, kTile, x);
    }
    for (size_t i = 0; i < kTile; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * out_stride), x[i]);
    }
  }

  THINMAPS_BMI2 static uint64_t Close(uint64_t symbols, size_t width) {
    return _pext_u64(symbols, kOnes * LowBits(width));
  }
  THINMAPS_BMI2 static uint64_t Spread(uint64_t packed, size_t width) {
    return _pdep_u64(packed, kOnes * LowBits(width));
  }
  THINMAPS_BMI2 static void Compress(const uint8_t* symbols, uint64_t present, uint8_t* kept) {
    for (size_t i = 0; i < kBlock; i += 8, present >>= 8) {
      Store64(_pext_u64(Load64(symbols + i), Bytes(present)), kept);
      kept += std::popcount(present & 0xFF);
    }
  }
  THINMAPS_BMI2 static void Expand(const uint8_t* kept, uint64_t present, uint8_t* symbols) {
    for (size_t i = 0; i < kBlock; i += 8, present >>= 8) {
      Store64(_pdep_u64(Load64(kept), Bytes(present)), symbols + i);
      kept += std::popcount(present & 0xFF);
    }
  }

 private:
  THINMAPS_BMI2 static uint64_t Bytes(uint64_t present) { return _pdep_u64(present, kOnes) * 0xFF; }
};
#endif

// 64 symbols to `width` bits each; writes 64 bytes, those behind the last one meaningless.
template <typename Bits>
void Pack(const uint8_t* symbols, size_t width, uint8_t* out) {
  for (size_t i = 0; i < kBlock; i += 8, out += width) {
    Store64(Bits::Close(Load64(symbols + i), width), out);
  }
}

// The first `bytes` <= 64 of `in` to 64 symbols; what they do not reach is 0.
template <typename Bits>
void Unpack(const uint8_t* in, size_t bytes, size_t width, uint8_t* symbols) {
  uint8_t padded[kBlock + 8] = {};
  std::copy_n(in, bytes, padded);
  for (size_t i = 0; i < kBlock; i += 8) {
    Store64(Bits::Spread(Load64(padded + i / 8 * width), width), symbols + i);
  }
}

template <typename Bits>
struct Loops {
  static void Load(const Steps& steps, const Place<const uint8_t>& from, Patch* patch) {
    uint8_t tile[kTile * kTile] = {};
    for (size_t p = 0; p < from.positions; p += kTile) {
      for (size_t q = p; q < std::min(p + kTile, from.positions); ++q) {
        const uint8_t* pixel = from.pixels[q] + from.channel;
        uint8_t* symbols = tile + (q - p) * kTile;
        if (steps.none && from.channels == kTile) {
          std::copy_n(pixel, kTile, symbols);
        } else {
          ToSymbols(steps, pixel, from.channel, from.channels, symbols);
        }
      }
      Bits::Transpose(tile, kTile, patch->symbols[0] + p, kBlock);
    }
    for (size_t c = 0; c < from.channels; ++c) {
      uint8_t* row = patch->symbols[c];
      std::fill(row + from.positions, row + kBlock, uint8_t{0});
      patch->width[c] = static_cast<uint8_t>(WidthOf(row));
      patch->stored[c] = static_cast<uint8_t>(std::popcount(Present(row)));
    }
  }

  static bool Store(const Steps& steps, const Patch& patch, const Place<uint8_t>& to) {
    uint8_t tile[kTile * kTile];
    bool good = true;
    for (size_t p = 0; p < to.positions; p += kTile) {
      Bits::Transpose(patch.symbols[0] + p, kBlock, tile, kTile);
      for (size_t q = p; q < std::min(p + kTile, to.positions); ++q) {
        uint8_t* pixel = to.pixels[q] + to.channel;
        const uint8_t* symbols = tile + (q - p) * kTile;
        if (steps.none && to.channels == kTile) {
          std::copy_n(symbols, kTile, pixel);
        } else {
          good &= ToBytes(steps, symbols, to.channel, to.channels, pixel);
        }
      }
    }
    for (size_t c = 0; c < to.channels; ++c) {
      const uint8_t* row = patch.symbols[c];
      const auto stored = static_cast<size_t>(std::popcount(Present(row)));
      good &= CodeOf(to.positions, stored, WidthOf(row)) == patch.code[c];
    }
    return good;
  }

  static size_t PutPatch(const Patch& patch, size_t channels, size_t count, uint8_t* out) {
    uint64_t codes = 0;
    uint8_t* next = out + PackedBytes(channels, 4);
    for (size_t c = 0; c < channels; ++c) {
      const size_t code = CodeOf(count, patch.stored[c], patch.width[c]);
      codes |= uint64_t{code} << 4 * c;
      if (code <= kWidestPlain) continue;
      Store64(Present(patch.symbols[c]), next);
      next += PackedBytes(count, 1);
    }
    StorePart(codes, out, PackedBytes(channels, 4));
    for (size_t c = 0; c < channels; ++c) {
      if (patch.width[c] == 0) continue;
      const bool sparse = (codes >> 4 * c & 15) > kWidestPlain;
      uint8_t kept[kBlock + 8] = {};
      if (sparse) Bits::Compress(patch.symbols[c], Present(patch.symbols[c]), kept);
      Pack<Bits>(sparse ? kept : patch.symbols[c], patch.width[c], next);
      next += PackedBytes(sparse ? patch.stored[c] : count, patch.width[c]);
    }
    return static_cast<size_t>(next - out);
  }

  static size_t GetPatch(const uint8_t* in, size_t channels, size_t count, Patch* patch) {
    constexpr size_t kBad = kMostPatchBytes + 1;
    const uint64_t codes = LoadPart(in, PackedBytes(channels, 4));
    if (channels < kPatchChannels && codes >> 4 * channels != 0) return kBad;
    uint64_t present[kPatchChannels];
    const uint8_t* next = in + PackedBytes(channels, 4);
    for (size_t c = 0; c < channels; ++c) {
      const bool sparse = (codes >> 4 * c & 15) > kWidestPlain;
      const size_t bytes = sparse ? PackedBytes(count, 1) : 0;
      present[c] = sparse ? Load64(next) & LowBits(8 * bytes) : LowBits(count);
      if ((present[c] & ~LowBits(count)) != 0) return kBad;
      next += bytes;
    }
    for (size_t c = 0; c < channels; ++c) {
      const size_t code = codes >> 4 * c & 15;
      const size_t width = code > kWidestPlain ? code - kSparse : code;
      const auto fields = static_cast<size_t>(std::popcount(present[c]));
      const size_t bytes = PackedBytes(fields, width);
      uint8_t kept[kBlock + 8];
      Unpack<Bits>(next, bytes, width, kept);
      next += bytes;
      const uint64_t set = Present(kept);
      // A set spare bit shows behind the last field, a stored zero of a sparse block before it.
      if ((set & ~LowBits(fields)) != 0) return kBad;
      if (code > kWidestPlain && set != LowBits(fields)) return kBad;
      Bits::Expand(kept, present[c], patch->symbols[c]);
      patch->code[c] = static_cast<uint8_t>(code);
    }
    return static_cast<size_t>(next - in);
  }
};

#if defined(__x86_64__)

using Avx2 = Loops<Bmi2Bits>;

// The same loops, inlined and vectorised anew.
THINMAPS_AVX2 Status EncodeAvx2(const CodecSpec& spec, const ConstRows& rows,
                                std::span<uint8_t> payload, size_t* written) {
  return Encode<Avx2>(spec, rows, payload, written);
}
THINMAPS_AVX2 Status DecodeAvx2(const CodecSpec& spec, std::span<const uint8_t> payload,
                                int32_t column, int32_t columns, const MutableRows& rows) {
  return Decode<Avx2>(spec, payload, column, columns, rows);
}

#endif

using Portable = Loops<PortableBits>;

}  // namespace

extern const CodecKernel kBlockWidth{"block_width", Isa::kPortable, Encode<Portable>,
                                     Decode<Portable>};
#if defined(__x86_64__)
extern const CodecKernel kBlockWidthAvx2{"block_width", Isa::kAvx2, EncodeAvx2, DecodeAvx2};
#endif

}  // namespace thinmaps
