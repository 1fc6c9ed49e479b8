// SPDX-License-Identifier: Apache-2.0
// Native twin of channel_dct.py, which specifies the payload; transform.h has the arithmetic.
//
// Group by group, a batch of pixels at a time. Which form is shorter is known at the end only, so
// that a unit is encoded with presence bits until they do not pay, and then once more without.
#include <algorithm>
#include <array>
#include <bit>

#include "bit_stream.h"
#include "codec.h"
#include "transform.h"

#if defined(__x86_64__)
#define THINMAPS_AVX512 \
  [[gnu::flatten,       \
    gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2,bmi,bmi2,popcnt")]]
#endif

namespace thinmaps {
namespace {

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

// Calls visit(first pixel of the row, pixels) for batches of every row.
template <typename Visit>
void ForEachBatch(const CodecSpec& spec, int32_t rows, Visit visit) {
  const auto width = static_cast<size_t>(spec.width);
  for (int32_t row = 0; row < rows; ++row) {
    for (size_t pixel = 0; pixel < width; pixel += kBatch) {
      visit(row, pixel, std::min(kBatch, width - pixel));
    }
  }
}

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
std::array<uint8_t, kMostGroup> ZeroCodes(const Stage& analysis, const CodecSpec& spec) {
  Batch zeros{};
  Batch codes{};
  zeros[0].fill(static_cast<uint8_t>(spec.zero_point));
  PortableTransform::Apply(analysis, 1, zeros, &codes);
  std::array<uint8_t, kMostGroup> found;
  std::copy_n(codes[0].begin(), kMostGroup, found.begin());
  return found;
}

// Where the bytes of a unit go.
struct Sink {
  BitWriter bitmap;
  uint8_t* value = nullptr;
  uint8_t* end = nullptr;  // of what the values may take
};

struct PortableBytes : PortableTransform {
  // Appends `count` bytes that are not zero; returns false where there is no room for them.
  static bool Append(const uint8_t* bytes, size_t count, Sink* sink) {
    uint64_t present = 0;
    for (size_t i = 0; i < count; ++i) {
      if (bytes[i] == 0) continue;
      if (sink->value == sink->end) return false;
      *sink->value++ = bytes[i];
      present |= uint64_t{1} << i;
    }
    sink->bitmap.Append(present, count);
    return true;
  }

  // The reverse; `values` has as many as `present` has bits.
  static void Expand(const uint8_t* values, uint64_t present, uint8_t* bytes) {
    std::fill_n(bytes, kMostGroup, uint8_t{0});
    for (; present != 0; present &= present - 1) bytes[std::countr_zero(present)] = *values++;
  }
};

// Codes of all batches, group by group: visit(codes, zero codes, frequencies, pixels), until one
// returns false.
template <typename Loops, typename Visit>
bool ForEachCodes(const CodecSpec& spec, const Tables& tables, const ConstRows& rows, Visit visit) {
  bool good = true;
  Batch elements{};
  Batch codes{};
  tables.transform.ForEachGroup([&](const Group& group) {
    const Channels channels(tables, group);
    const auto zero_codes = ZeroCodes(group.analysis, spec);
    ForEachBatch(spec, rows.count, [&](int32_t row, size_t pixel, size_t pixels) {
      if (!good) return;
      const uint8_t* from = rows.rows[row] + static_cast<ptrdiff_t>(pixel) * rows.pixel_bytes;
      for (size_t i = 0; i < pixels; ++i, from += rows.pixel_bytes) {
        channels.Take(from, elements[i].data());
      }
      Loops::Apply(group.analysis, pixels, elements, &codes);
      for (size_t i = 0; i < pixels; ++i) {
        for (size_t k = 0; k < kMostGroup; ++k) {
          codes[i][k] = static_cast<uint8_t>(codes[i][k] - zero_codes[k]);
        }
        good = good && visit(codes[i].data(), group.components);
      }
    });
  });
  return good;
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
  if (bitmap_bytes < count) {
    Sink sink{BitWriter(payload.subspan(1, bitmap_bytes)), payload.data() + 1 + bitmap_bytes,
              payload.data() + count};
    if (ForEachCodes<Loops>(spec, tables, rows, [&sink](const uint8_t* bytes, size_t frequencies) {
          return Loops::Append(bytes, frequencies, &sink);
        })) {
      sink.bitmap.Flush();
      payload[0] = kWithBitmap;
      *written = static_cast<size_t>(sink.value - payload.data());
      return Status::kOk;
    }
  }
  uint8_t* out = payload.data() + 1;
  ForEachCodes<Loops>(spec, tables, rows, [&out](const uint8_t* bytes, size_t frequencies) {
    out = std::copy_n(bytes, frequencies, out);
    return true;
  });
  payload[0] = kPlain;
  *written = 1 + count;
  return Status::kOk;
}

// A payload after the checks of its lengths: what follows needs none but of the codes.
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
      const auto zeros = std::count(rest.begin(), rest.end(), uint8_t{0});
      return static_cast<size_t>(zeros) <= bitmap_bytes;
    }
    if (rest.size() < bitmap_bytes || rest.size() >= count) return false;
    bitmap = rest.first(bitmap_bytes);
    const auto values = rest.subspan(bitmap_bytes);
    value = values.data();
    if (count % 8 != 0 && bitmap.back() >> count % 8 != 0) return false;
    size_t announced = 0;
    for (const uint8_t byte : bitmap) announced += static_cast<size_t>(std::popcount(byte));
    return values.size() == announced && std::count(values.begin(), values.end(), uint8_t{0}) == 0;
  }

  template <typename Loops>
  void Take(size_t frequencies, uint8_t* bytes) {
    if (plain) {
      std::fill_n(bytes, kMostGroup, uint8_t{0});
      std::copy_n(value, frequencies, bytes);
      value += frequencies;
      return;
    }
    const uint64_t present = BitsAt(bitmap, bit) & ((uint64_t{1} << frequencies) - 1);
    Loops::Expand(value, present, bytes);
    value += std::popcount(present);
    bit += frequencies;
  }
};

template <typename Loops>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  Tables tables;
  if (!tables.Read(spec)) return Status::kBadArgument;
  Source source;
  if (!source.Read(payload, BytesOf(spec, tables, rows.count))) return Status::kCorruptPayload;

  bool good = true;
  Batch codes{};
  Batch elements{};
  tables.transform.ForEachGroup([&](const Group& group) {
    const Channels channels(tables, group);
    const auto zero_codes = ZeroCodes(group.analysis, spec);
    ForEachBatch(spec, rows.count, [&](int32_t row, size_t pixel, size_t pixels) {
      for (size_t i = 0; i < pixels; ++i) {
        source.Take<Loops>(group.components, codes[i].data());
        for (size_t k = 0; k < kMostGroup; ++k) {
          codes[i][k] = static_cast<uint8_t>(codes[i][k] + zero_codes[k]);
        }
        good &= AreCodes(group.analysis, codes[i]);
      }
      Loops::Apply(group.synthesis, pixels, codes, &elements);
      uint8_t* to = rows.rows[row] + static_cast<ptrdiff_t>(pixel) * rows.pixel_bytes;
      for (size_t i = 0; i < pixels; ++i, to += rows.pixel_bytes) {
        channels.Put(elements[i].data(), to);
      }
    });
  });
  return good ? Status::kOk : Status::kCorruptPayload;
}

#if defined(__x86_64__)

struct Avx512Bytes : Avx512Transform {
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]] static bool Append(
      const uint8_t* bytes, size_t count, Sink* sink) {
    const auto asked = static_cast<__mmask16>((1U << count) - 1);
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __mmask16 present = _mm_mask_test_epi8_mask(asked, x, x);
    const ptrdiff_t stored = std::popcount(static_cast<uint32_t>(present));
    const ptrdiff_t room = sink->end - sink->value;
    if (stored > room) return false;
    const __m128i values = _mm_maskz_compress_epi8(present, x);
    if (room >= ptrdiff_t{kMostGroup}) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sink->value), values);
    } else {
      _mm_mask_storeu_epi8(sink->value, static_cast<__mmask16>((1U << stored) - 1), values);
    }
    sink->value += stored;
    sink->bitmap.Append(present, count);
    return true;
  }

  [[gnu::target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]] static void Expand(
      const uint8_t* values, uint64_t present, uint8_t* bytes) {
    const auto stored = static_cast<uint32_t>(std::popcount(present));
    const __m128i x = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << stored) - 1), values);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes),
                     _mm_maskz_expand_epi8(static_cast<__mmask16>(present), x));
  }
};

THINMAPS_AVX512 Status EncodeAvx512(const CodecSpec& spec, const ConstRows& rows,
                                    std::span<uint8_t> payload, size_t* written) {
  return Encode<Avx512Bytes>(spec, rows, payload, written);
}
THINMAPS_AVX512 Status DecodeAvx512(const CodecSpec& spec, std::span<const uint8_t> payload,
                                    int32_t column, int32_t columns, const MutableRows& rows) {
  return Decode<Avx512Bytes>(spec, payload, column, columns, rows);
}

#endif

}  // namespace

extern const CodecKernel kChannelDct{"channel_dct", Isa::kPortable, Encode<PortableBytes>,
                                     Decode<PortableBytes>};
#if defined(__x86_64__)
extern const CodecKernel kChannelDctAvx512{"channel_dct", Isa::kAvx512, EncodeAvx512, DecodeAvx512};
#endif

}  // namespace thinmaps
