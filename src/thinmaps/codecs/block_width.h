// SPDX-License-Identifier: Apache-2.0
// What the implementations of block_width share; block_width.py specifies the payload.
//
// The work goes by patches, whose pixels become one row of 64 symbols per channel and these blocks.
// How a patch is turned and packed is the `Ops` of an instruction set; what is written and refused
// does not depend on it:
//   Load(steps, place, &patch)               pixels to symbols
//   Store(steps, patch, place)               and back; whether symbols and codes are an encoder's
//   PutPatch(patch, channels, count, out)    the patch's bytes to `out`, where kMostPatchBytes may
//   be
//                                            written; returns how many they are
//   GetPatch(in, channels, count, &patch)    the patch that `in` begins with, of which
//                                            kMostPatchBytes may be read; returns its bytes, or
//                                            more than kMostPatchBytes where it is no encoder's
#pragma once

#include <algorithm>
#include <bit>

#include "codec.h"
#include "little_endian.h"
#include "steps.h"

namespace thinmaps::block_width {

constexpr size_t kBlock = 64;
constexpr size_t kPatchChannels = 16;
constexpr size_t kSparse = 7;       // what a sparse block's code has on top of its width
constexpr size_t kWidestPlain = 8;  // codes above it are sparse
// With room for a whole vector behind the last value.
constexpr size_t kMostPatchBytes = kPatchChannels / 2 + kPatchChannels * (8 + kBlock) + kBlock;

inline size_t PackedBytes(size_t elements, size_t bits) { return (elements * bits + 7) / 8; }

inline uint64_t LowBits(size_t count) {
  return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
}

// The form of a block of `count` symbols, `present` of which are not 0, the largest `width` bits.
inline size_t CodeOf(size_t count, size_t present, size_t width) {
  const size_t sparse = PackedBytes(count, 1) + PackedBytes(present, width);
  return width > 0 && sparse < PackedBytes(count, width) ? width + kSparse : width;
}

// One row of symbols per channel, those behind the patch's positions 0, and of each row: bits of
// the largest, how many are not 0 (Load gives these two), and its code (GetPatch). Where there is
// no channel, all three are 0.
struct alignas(kBlock) Patch {
  uint8_t symbols[kPatchChannels][kBlock];
  uint8_t width[kPatchChannels];
  uint8_t stored[kPatchChannels];
  uint8_t code[kPatchChannels];
};

// Where a patch lies: the pixels of its positions, and which of their channels.
template <typename Byte>
struct Place {
  Byte* const* pixels;
  size_t positions;  // 1 to 64
  size_t channel;
  size_t channels;  // 1 to 16
};

// Calls visit(pixels, positions) for every 64 positions of the rows, in order. Where fewer are
// left, the pixels behind them are the last one again.
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
  if (positions == 0) return;
  std::fill(pixels + positions, pixels + kBlock, pixels[positions - 1]);
  visit(pixels, positions);
}

// Patches to the room that is left of a payload.
template <typename Ops>
bool Put(const Patch& patch, size_t channels, size_t count, std::span<uint8_t>* room) {
  if (room->size() >= kMostPatchBytes) {
    *room = room->subspan(Ops::PutPatch(patch, channels, count, room->data()));
    return true;
  }
  uint8_t beside[kMostPatchBytes];
  const size_t taken = Ops::PutPatch(patch, channels, count, beside);
  if (taken > room->size()) return false;
  std::copy_n(beside, taken, room->data());
  *room = room->subspan(taken);
  return true;
}

// And from what is left of it; returns whether the next patch is there, in the encoder's form.
template <typename Ops>
bool Get(std::span<const uint8_t>* left, size_t channels, size_t count, Patch* patch) {
  size_t taken = 0;
  if (left->size() >= kMostPatchBytes) {
    taken = Ops::GetPatch(left->data(), channels, count, patch);
  } else {
    uint8_t beside[kMostPatchBytes] = {};
    std::copy(left->begin(), left->end(), beside);
    taken = Ops::GetPatch(beside, channels, count, patch);
  }
  if (taken > std::min(left->size(), kMostPatchBytes)) return false;
  *left = left->subspan(taken);
  return true;
}

template <typename Ops>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Steps steps;
  if (!ReadSteps(spec, &steps)) return Status::kBadArgument;
  const auto channels = static_cast<size_t>(spec.channels);
  std::span<uint8_t> room = payload;
  bool good = true;
  ForEachPositions<const uint8_t>(
      rows, spec.width, [&](const uint8_t* const* pixels, size_t positions) {
        for (size_t channel = 0; channel < channels && good; channel += kPatchChannels) {
          const size_t patch_channels = std::min(kPatchChannels, channels - channel);
          Patch patch;
          Ops::Load(steps, {pixels, positions, channel, patch_channels}, &patch);
          // The literal lets the compiler simplify the common case.
          good = positions == kBlock ? Put<Ops>(patch, patch_channels, kBlock, &room)
                                     : Put<Ops>(patch, patch_channels, positions, &room);
        }
      });
  if (!good) return Status::kTooSmall;
  *written = payload.size() - room.size();
  return Status::kOk;
}

template <typename Ops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Steps steps;
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  if (!ReadSteps(spec, &steps)) return Status::kBadArgument;
  const auto channels = static_cast<size_t>(spec.channels);
  std::span<const uint8_t> left = payload;
  bool good = true;
  ForEachPositions<uint8_t>(rows, spec.width, [&](uint8_t* const* pixels, size_t positions) {
    for (size_t channel = 0; channel < channels && good; channel += kPatchChannels) {
      const size_t patch_channels = std::min(kPatchChannels, channels - channel);
      Patch patch;
      good = positions == kBlock ? Get<Ops>(&left, patch_channels, kBlock, &patch)
                                 : Get<Ops>(&left, patch_channels, positions, &patch);
      if (!good) return;
      good = Ops::Store(steps, patch, {pixels, positions, channel, patch_channels});
    }
  });
  return good && left.empty() ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace thinmaps::block_width
