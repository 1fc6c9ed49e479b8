// SPDX-License-Identifier: Apache-2.0
// Native twin of block_width.py, which specifies the payload.
//
// The work goes by patches: up to 64 positions of up to 16 channels, whose pixels become one row of
// 64 symbols per channel and these, one by one, blocks. How a patch is turned and how a block is
// packed differ by instruction set; what is written and refused does not.
#include <algorithm>
#include <bit>
#include <cstring>

#include "codec.h"
#include "little_endian.h"
#include "steps.h"
#include "sub_bytes.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#define THINMAPS_AVX2 [[gnu::flatten, gnu::target("avx2,bmi,bmi2,popcnt")]]
#define THINMAPS_AVX512_TARGET \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi,bmi2,popcnt"
#define THINMAPS_AVX512 [[gnu::target(THINMAPS_AVX512_TARGET)]]
#endif

namespace thinmaps {
namespace {

constexpr size_t kBlock = 64;
constexpr size_t kPatchChannels = 16;
constexpr size_t kSparse = 7;       // what a sparse block's code has on top of its width
constexpr size_t kWidestPlain = 8;  // codes above it are sparse
constexpr size_t kMostBlockBytes =
    8 + kBlock;  // of a block as it is made, before it is the shorter

size_t PackedBytes(size_t elements, size_t bits) { return (elements * bits + 7) / 8; }

uint64_t LowBits(size_t count) { return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0}; }

// The form of a block of `count` symbols, `present` of which are not 0, the largest `width` bits.
size_t CodeOf(size_t count, size_t present, size_t width) {
  const size_t sparse = PackedBytes(count, 1) + PackedBytes(present, width);
  return width > 0 && sparse < PackedBytes(count, width) ? width + kSparse : width;
}

// One row of symbols per channel; those behind the patch's positions are 0.
struct alignas(kBlock) Patch {
  uint8_t symbols[kPatchChannels][kBlock];
};

// Where a patch lies: the pixels of its positions, and which of their channels.
template <typename Byte>
struct Place {
  Byte* const* pixels;
  size_t positions;  // 1 to 64
  size_t channel;
  size_t channels;  // 1 to 16
};

// Calls visit(pixels, positions) for every 64 positions of the rows, in order.
template <typename Byte, typename Rows, typename Visit>
void ForEachPositions(const Rows& rows, int32_t width, Visit visit) {
  Byte* pixels[kBlock];
  size_t positions = 0;
  for (int32_t row = 0; row < rows.count; ++row) {
    Byte* pixel = rows.rows[row];
    for (int32_t column = 0; column < width; ++column, pixel += rows.pixel_bytes) {
      pixels[positions++] = pixel;
      if (positions < kBlock) continue;
      visit(pixels, positions);
      positions = 0;
    }
  }
  if (positions > 0) visit(pixels, positions);
}

struct Portable {
  static void Load(const Steps& steps, const Place<const uint8_t>& from, Patch* patch) {
    uint8_t symbols[kPatchChannels];
    for (size_t p = 0; p < from.positions; ++p) {
      ToSymbols(steps, from.pixels[p] + from.channel, from.channel, from.channels, symbols);
      for (size_t c = 0; c < from.channels; ++c) patch->symbols[c][p] = symbols[c];
    }
    for (size_t c = 0; c < from.channels; ++c) {
      std::fill(patch->symbols[c] + from.positions, patch->symbols[c] + kBlock, uint8_t{0});
    }
  }

  // Returns whether every symbol is one that the encoder writes.
  static bool Store(const Steps& steps, const Patch& patch, const Place<uint8_t>& to) {
    uint8_t symbols[kPatchChannels];
    bool good = true;
    for (size_t p = 0; p < to.positions; ++p) {
      for (size_t c = 0; c < to.channels; ++c) symbols[c] = patch.symbols[c][p];
      good &= ToBytes(steps, symbols, to.channel, to.channels, to.pixels[p] + to.channel);
    }
    return good;
  }

  // Bit i is set where symbol i is not 0.
  static uint64_t Present(const uint8_t* symbols) {
    uint64_t present = 0;
    for (size_t i = 0; i < kBlock; ++i) present |= uint64_t{symbols[i] != 0} << i;
    return present;
  }

  // All bits that any symbol has.
  static uint8_t Union(const uint8_t* symbols) {
    uint64_t all = 0;
    for (size_t i = 0; i < kBlock; i += 8) all |= Load64(symbols + i);
    for (const int half : {32, 16, 8}) all |= all >> half;
    return static_cast<uint8_t>(all);
  }

  // 64 symbols to `width` bits each; writes 64 bytes, those behind the last one meaningless.
  static void Pack(const uint8_t* symbols, size_t width, uint8_t* out) {
    for (size_t i = 0; i < kBlock; i += 8, out += width) {
      Store64(Gather(Load64(symbols + i), width), out);
    }
  }

  // The first `bytes` of `in` to 64 symbols; what they do not reach is 0. Reads up to 64.
  static void Unpack(const uint8_t* in, size_t bytes, size_t width, uint8_t* symbols) {
    uint8_t padded[kBlock + 8] = {};
    std::copy_n(in, bytes, padded);
    for (size_t i = 0; i < kBlock; i += 8) {
      const uint64_t word = Load64(padded + i / 8 * width);
      const uint64_t used = width < 8 ? word & ((uint64_t{1} << 8 * width) - 1) : word;
      Store64(width < 8 ? Scatter(used, width) : used, symbols + i);
    }
  }

  // The symbols that are present, together; those behind them are 0. In place allowed.
  static void Compress(const uint8_t* symbols, uint64_t present, uint8_t* kept) {
    size_t count = 0;
    for (; present != 0; present &= present - 1) kept[count++] = symbols[std::countr_zero(present)];
    std::fill(kept + count, kept + kBlock, uint8_t{0});
  }

  static void Expand(const uint8_t* kept, uint64_t present, uint8_t* symbols) {
    std::fill_n(symbols, kBlock, uint8_t{0});
    for (; present != 0; present &= present - 1) symbols[std::countr_zero(present)] = *kept++;
  }
};

// A block in `out`, which has room for kMostBlockBytes; returns its code, and its bytes in `taken`.
template <typename Ops>
size_t PutBlock(const uint8_t* symbols, size_t count, uint8_t* out, size_t* taken) {
  const auto width = static_cast<size_t>(std::bit_width(Ops::Union(symbols)));
  const uint64_t present = Ops::Present(symbols);
  const auto stored = static_cast<size_t>(std::popcount(present));
  const size_t code = CodeOf(count, stored, width);
  if (code <= kWidestPlain) {
    if (code > 0) Ops::Pack(symbols, width, out);
    *taken = PackedBytes(count, width);
    return code;
  }
  alignas(kBlock) uint8_t kept[kBlock];
  const size_t bitmap_bytes = PackedBytes(count, 1);
  Ops::Compress(symbols, present, kept);
  Store64(present, out);
  Ops::Pack(kept, width, out + bitmap_bytes);
  *taken = bitmap_bytes + PackedBytes(stored, width);
  return code;
}

// The block that `in` begins with to 64 symbols. `left` bytes are the payload's, kMostBlockBytes
// may be read. Returns the bytes that it takes, or more than `left` where it is no encoder's.
template <typename Ops>
size_t GetBlock(size_t code, const uint8_t* in, size_t left, size_t count, uint8_t* symbols) {
  const size_t bad = left + 1;
  if (code == 0) {
    std::fill_n(symbols, kBlock, uint8_t{0});
    return 0;
  }
  const bool sparse = code > kWidestPlain;
  const size_t width = sparse ? code - kSparse : code;
  const size_t bitmap_bytes = sparse ? PackedBytes(count, 1) : 0;
  if (left < bitmap_bytes) return bad;
  const uint64_t present = sparse ? Load64(in) & LowBits(8 * bitmap_bytes) : 0;
  const size_t fields = sparse ? static_cast<size_t>(std::popcount(present)) : count;
  const size_t taken = bitmap_bytes + PackedBytes(fields, width);
  if (taken > left || (present & ~LowBits(count)) != 0) return bad;

  Ops::Unpack(in + bitmap_bytes, taken - bitmap_bytes, width, symbols);
  const uint64_t set = Ops::Present(symbols);
  const auto stored = static_cast<size_t>(std::popcount(set));
  // A set spare bit shows behind the last field, a stored zero before it.
  if (sparse ? set != LowBits(fields) : (set & ~LowBits(count)) != 0) return bad;
  if (Ops::Union(symbols) >> (width - 1) == 0 || CodeOf(count, stored, width) != code) return bad;
  if (sparse) {
    alignas(kBlock) uint8_t kept[kBlock];
    std::copy_n(symbols, kBlock, kept);
    Ops::Expand(kept, present, symbols);
  }
  return taken;
}

size_t Blocks(const CodecSpec& spec, int32_t rows) {
  const size_t positions = static_cast<size_t>(rows) * static_cast<size_t>(spec.width);
  return (positions + kBlock - 1) / kBlock * static_cast<size_t>(spec.channels);
}

// Blocks to a payload that has room for the largest unit.
struct Writer {
  uint8_t* codes;
  std::span<uint8_t> room;  // for the blocks that are still to come
  size_t block = 0;

  template <typename Ops>
  bool Put(const uint8_t* symbols, size_t count) {
    size_t taken = 0;
    size_t code = 0;
    if (room.size() >= kMostBlockBytes) {
      code = PutBlock<Ops>(symbols, count, room.data(), &taken);
    } else {
      uint8_t last[kMostBlockBytes];
      code = PutBlock<Ops>(symbols, count, last, &taken);
      if (taken > room.size()) return false;
      std::copy_n(last, taken, room.data());
    }
    room = room.subspan(taken);
    uint8_t* pair = codes + block / 2;
    *pair = static_cast<uint8_t>(block % 2 == 0 ? code : *pair | code << 4);
    ++block;
    return true;
  }
};

struct Reader {
  const uint8_t* codes;
  std::span<const uint8_t> left;
  size_t block = 0;

  template <typename Ops>
  bool Get(size_t count, uint8_t* symbols) {
    const size_t code = codes[block / 2] >> (block % 2 * 4) & 15;
    ++block;
    size_t taken = 0;
    if (left.size() >= kMostBlockBytes) {
      taken = GetBlock<Ops>(code, left.data(), left.size(), count, symbols);
    } else {
      uint8_t last[kMostBlockBytes] = {};
      std::copy(left.begin(), left.end(), last);
      taken = GetBlock<Ops>(code, last, left.size(), count, symbols);
    }
    if (taken > left.size()) return false;
    left = left.subspan(taken);
    return true;
  }
};

template <typename Ops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Steps steps;
  if (!ReadSteps(spec, &steps)) return Status::kBadArgument;
  const size_t code_bytes = PackedBytes(Blocks(spec, rows.count), 4);
  if (payload.size() < code_bytes) return Status::kTooSmall;
  const auto channels = static_cast<size_t>(spec.channels);
  Writer writer{payload.data(), payload.subspan(code_bytes)};
  bool good = true;
  ForEachPositions<const uint8_t>(
      rows, spec.width, [&](const uint8_t* const* pixels, size_t positions) {
        for (size_t channel = 0; channel < channels; channel += kPatchChannels) {
          const size_t patch_channels = std::min(kPatchChannels, channels - channel);
          Patch patch;
          Ops::Load(steps, {pixels, positions, channel, patch_channels}, &patch);
          for (size_t c = 0; c < patch_channels && good; ++c) {
            good = writer.Put<Ops>(patch.symbols[c], positions);
          }
        }
      });
  if (!good) return Status::kTooSmall;
  *written = payload.size() - writer.room.size();
  return Status::kOk;
}

template <typename Ops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Steps steps;
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  if (!ReadSteps(spec, &steps)) return Status::kBadArgument;
  const size_t blocks = Blocks(spec, rows.count);
  const size_t code_bytes = PackedBytes(blocks, 4);
  if (payload.size() < code_bytes) return Status::kCorruptPayload;
  if (blocks % 2 != 0 && payload[code_bytes - 1] >> 4 != 0) return Status::kCorruptPayload;
  const auto channels = static_cast<size_t>(spec.channels);
  Reader reader{payload.data(), payload.subspan(code_bytes)};
  bool good = true;
  ForEachPositions<uint8_t>(rows, spec.width, [&](uint8_t* const* pixels, size_t positions) {
    for (size_t channel = 0; channel < channels; channel += kPatchChannels) {
      const size_t patch_channels = std::min(kPatchChannels, channels - channel);
      Patch patch;
      for (size_t c = 0; c < patch_channels && good; ++c) {
        good = reader.Get<Ops>(positions, patch.symbols[c]);
      }
      if (!good) return;
      good = Ops::Store(steps, patch, {pixels, positions, channel, patch_channels});
    }
  });
  return good && reader.left.empty() ? Status::kOk : Status::kCorruptPayload;
}

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
