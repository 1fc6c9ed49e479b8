// SPDX-License-Identifier: Apache-2.0
// Native twin of block_width.py, which specifies the payload: portable and AVX2.
#include "block_width.h"

#include "sub_bytes.h"

#if defined(__x86_64__)
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

// 64 symbols to `width` bits each; writes 64 bytes, those behind the last one meaningless.
void Pack(const uint8_t* symbols, size_t width, uint8_t* out) {
  for (size_t i = 0; i < kBlock; i += 8, out += width) {
    Store64(Gather(Load64(symbols + i), width), out);
  }
}

// The first `bytes` <= 64 of `in` to 64 symbols; what they do not reach is 0.
void Unpack(const uint8_t* in, size_t bytes, size_t width, uint8_t* symbols) {
  uint8_t padded[kBlock + 8] = {};
  std::copy_n(in, bytes, padded);
  for (size_t i = 0; i < kBlock; i += 8) {
    const uint64_t word = Load64(padded + i / 8 * width);
    Store64(width < 8 ? Scatter(word & LowBits(8 * width), width) : word, symbols + i);
  }
}

void Compress(const uint8_t* symbols, uint64_t present, uint8_t* kept) {
  for (; present != 0; present &= present - 1) *kept++ = symbols[std::countr_zero(present)];
}

void Expand(const uint8_t* kept, uint64_t present, uint8_t* symbols) {
  std::fill_n(symbols, kBlock, uint8_t{0});
  for (; present != 0; present &= present - 1) symbols[std::countr_zero(present)] = *kept++;
}

struct Portable {
  static void Load(const Steps& steps, const Place<const uint8_t>& from, Patch* patch) {
    uint8_t symbols[kPatchChannels];
    for (size_t p = 0; p < from.positions; ++p) {
      ToSymbols(steps, from.pixels[p] + from.channel, from.channel, from.channels, symbols);
      for (size_t c = 0; c < from.channels; ++c) patch->symbols[c][p] = symbols[c];
    }
    for (size_t c = 0; c < from.channels; ++c) {
      uint8_t* row = patch->symbols[c];
      std::fill(row + from.positions, row + kBlock, uint8_t{0});
      patch->width[c] = static_cast<uint8_t>(WidthOf(row));
      patch->stored[c] = static_cast<uint8_t>(std::popcount(Present(row)));
    }
  }

  static bool Store(const Steps& steps, const Patch& patch, const Place<uint8_t>& to) {
    uint8_t symbols[kPatchChannels];
    bool good = true;
    for (size_t p = 0; p < to.positions; ++p) {
      for (size_t c = 0; c < to.channels; ++c) symbols[c] = patch.symbols[c][p];
      good &= ToBytes(steps, symbols, to.channel, to.channels, to.pixels[p] + to.channel);
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
      uint8_t kept[kBlock] = {};
      if (sparse) Compress(patch.symbols[c], Present(patch.symbols[c]), kept);
      Pack(sparse ? kept : patch.symbols[c], patch.width[c], next);
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
      uint8_t kept[kBlock];
      Unpack(next, bytes, width, kept);
      next += bytes;
      const uint64_t set = Present(kept);
      // A set spare bit shows behind the last field, a stored zero of a sparse block before it.
      if ((set & ~LowBits(fields)) != 0) return kBad;
      if (code > kWidestPlain && set != LowBits(fields)) return kBad;
      Expand(kept, present[c], patch->symbols[c]);
      patch->code[c] = static_cast<uint8_t>(code);
    }
    return static_cast<size_t>(next - in);
  }
};

#if defined(__x86_64__)

// The same loops, inlined and vectorised anew.
THINMAPS_AVX2 Status EncodeAvx2(const CodecSpec& spec, const ConstRows& rows,
                                std::span<uint8_t> payload, size_t* written) {
  return Encode<Portable>(spec, rows, payload, written);
}
THINMAPS_AVX2 Status DecodeAvx2(const CodecSpec& spec, std::span<const uint8_t> payload,
                                int32_t column, int32_t columns, const MutableRows& rows) {
  return Decode<Portable>(spec, payload, column, columns, rows);
}

#endif

}  // namespace

extern const CodecKernel kBlockWidth{"block_width", Isa::kPortable, Encode<Portable>,
                                     Decode<Portable>};
#if defined(__x86_64__)
extern const CodecKernel kBlockWidthAvx2{"block_width", Isa::kAvx2, EncodeAvx2, DecodeAvx2};
#endif

}  // namespace thinmaps
