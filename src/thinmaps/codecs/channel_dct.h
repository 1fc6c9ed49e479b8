// SPDX-License-Identifier: Apache-2.0
// The tables of channel_dct.py and both ends of its payload, for loops of every instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "bit_stream.h"
#include "codec.h"
#include "little_endian.h"
#include "transform.h"

namespace thinmaps::channel_dct {

constexpr uint8_t kWithBitmap = 0;
constexpr uint8_t kPlain = 1;
constexpr size_t kMostGroup = 16;  // channels, and so frequencies, of a group

// ChannelDct.native_integers: the order of the channels, then the transform.
struct Tables {
  const int32_t* order = nullptr;
  Transform transform;

  bool Read(const CodecSpec& spec) {
    const auto channels = static_cast<size_t>(std::max(spec.channels, 0));
    if (spec.integers.size() < channels) return false;
    order = spec.integers.data();
    for (size_t i = 0; i < channels; ++i) {
      if (order[i] < 0 || order[i] >= spec.channels) return false;
    }
    CodecSpec rest = spec;
    rest.integers = spec.integers.subspan(channels);
    if (!transform.Read(rest)) return false;
    bool small = transform.rows * transform.columns == 1;
    transform.ForEachGroup([&small](const Group& group) {
      small &= group.channels <= kMostGroup && group.components <= group.channels;
    });
    return small;
  }
};

// The group's channels of a pixel in their order, and back; without a table where they lie so.
struct Channels {
  const int32_t* order;
  size_t count;
  bool in_place = true;

  Channels(const Tables& tables, const Group& group)
      : order(tables.order + group.first_channel), count(group.channels) {
    for (size_t i = 0; i < count; ++i) in_place &= order[i] == order[0] + static_cast<int32_t>(i);
  }

  void Take(const uint8_t* pixel, uint8_t* to) const {
    if (in_place && count == 8) {
      std::memcpy(to, pixel + order[0], 8);
    } else if (in_place) {
      CopyChannels(pixel + order[0], count, to);
    } else {
      for (size_t i = 0; i < count; ++i) to[i] = pixel[order[i]];
    }
  }

  void Put(const uint8_t* from, uint8_t* pixel) const {
    if (in_place && count == 8) {
      std::memcpy(pixel + order[0], from, 8);
    } else if (in_place) {
      CopyChannels(from, count, pixel + order[0]);
    } else {
      for (size_t i = 0; i < count; ++i) pixel[order[i]] = from[i];
    }
  }
};

// Codes that stand for zero, one per frequency of a group.
inline std::array<uint8_t, kMostGroup> ZeroCodes(const Stage& analysis, const CodecSpec& spec) {
  Batch zeros{};
  Batch codes{};
  zeros[0].fill(static_cast<uint8_t>(spec.zero_point));
  PortableTransform::Apply(analysis, 1, zeros, &codes);
  std::array<uint8_t, kMostGroup> found;
  std::copy_n(codes[0].begin(), kMostGroup, found.begin());
  return found;
}

// One group, with what both directions need of it.
struct Line {
  const Group& group;
  Channels channels;
  std::array<uint8_t, kMostGroup> zero_codes;

  Line(const CodecSpec& spec, const Tables& tables, const Group& of)
      : group(of), channels(tables, of), zero_codes(ZeroCodes(of.analysis, spec)) {}
};

// Where the bytes of a unit go: presence bits and values, or all bytes.
struct Sink {
  bool plain = false;
  bool full = false;  // of values; whatever follows is lost
  BitWriter bitmap;
  uint8_t* value = nullptr;
  uint8_t* end = nullptr;  // of what the values may take

  void Append(const uint8_t* bytes, size_t count) {
    uint64_t present = 0;
    for (size_t i = 0; i < count && !full; ++i) {
      if (bytes[i] == 0 && !plain) continue;
      full = value == end;
      if (full) return;
      *value++ = bytes[i];
      present |= uint64_t{1} << i;
    }
    if (!plain) bitmap.Append(present, count);
  }
};

// Bytes that are zero; counted in bytes, 128 at a time, so that the loop fits registers.
[[gnu::noinline]] inline size_t Zeros(std::span<const uint8_t> bytes) {
  constexpr size_t kStretch = 128;
  size_t zeros = 0;
  for (size_t first = 0; first < bytes.size(); first += kStretch) {
    const size_t count = std::min(kStretch, bytes.size() - first);
    uint8_t here = 0;
    for (size_t i = 0; i < count; ++i) here += static_cast<uint8_t>(bytes[first + i] == 0);
    zeros += here;
  }
  return zeros;
}

// A payload, read from its start, after the checks of its lengths: what follows needs none but that
// of the codes.
struct Source {
  bool plain = false;
  std::span<const uint8_t> bitmap;
  const uint8_t* value = nullptr;
  size_t bit = 0;

  bool Read(std::span<const uint8_t> payload, size_t count) {
    if (payload.empty() || payload[0] > kPlain) return false;
    const auto rest = payload.subspan(1);
    const size_t bitmap_bytes = (count + 7) / 8;
    plain = payload[0] == kPlain;
    if (plain) {
      value = rest.data();
      if (rest.size() != count) return false;
      return Zeros(rest) <= bitmap_bytes;
    }
    if (rest.size() < bitmap_bytes || rest.size() >= count) return false;
    bitmap = rest.first(bitmap_bytes);
    const auto values = rest.subspan(bitmap_bytes);
    value = values.data();
    if (count % 8 != 0 && bitmap.back() >> count % 8 != 0) return false;
    size_t announced = 0;
    for (size_t i = 0; i < bitmap_bytes; i += 8) {
      const uint64_t word = bitmap_bytes - i >= 8 ? Load64(bitmap.data() + i)
                                                  : LoadPart(bitmap.data() + i, bitmap_bytes - i);
      announced += static_cast<size_t>(std::popcount(word));
    }
    return values.size() == announced && Zeros(values) == 0;
  }

  // Presence of the next `count` <= 64 bytes.
  uint64_t TakeBits(size_t count) {
    const uint64_t all = ~uint64_t{0} >> (64 - count);
    const uint64_t present = plain ? all : BitsAt(bitmap, bit) & all;
    bit += count;
    return present;
  }

  void Take(size_t count, uint8_t* bytes) {
    std::fill_n(bytes, kMostGroup, uint8_t{0});
    if (count == 0) return;
    for (uint64_t present = TakeBits(count); present != 0; present &= present - 1) {
      bytes[std::countr_zero(present)] = *value++;
    }
  }
};

}  // namespace thinmaps::channel_dct
