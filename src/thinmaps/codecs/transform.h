// SPDX-License-Identifier: Apache-2.0
// Native twin of transform.py, which specifies the arithmetic: blocks to codes and back.
//
// Both directions are a stage: bytes, times a matrix of int8, plus a bias, shifted and clamped to
// bytes. Several blocks go through a stage together, so that its matrix is read once for them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "codec.h"
#include "little_endian.h"

#if defined(__x86_64__)
#include "intrinsics.h"
#endif

namespace thinmaps {

constexpr size_t kLanes = 16;  // outputs side by side
constexpr size_t kQuad = 4;    // inputs multiplied at once
constexpr size_t kOctet = 8;   // codes that are packed together
constexpr size_t kMostElements = 128;
constexpr size_t kBatch = 4;  // blocks that share a reading of the matrix

// What goes through a stage together: whole quads and octets of up to kBatch blocks.
using BlockBytes = std::array<uint8_t, kMostElements>;
using Batch = std::array<BlockBytes, kBatch>;

// Transform.native_integers and native_tables of one direction of one group.
struct Stage {
  enum Row : size_t { kBias, kShift, kLargest, kBytes };
  enum ByteRow : size_t { kUsed, kLow, kHigh };

  size_t tiles = 0;
  size_t quads = 0;
  size_t rows = 0;                   // of numbers: all of `Row`, or the first two
  const int32_t* numbers = nullptr;  // (tiles, rows, kLanes)
  const int8_t* matrix = nullptr;    // (tiles, quads, kLanes, kQuad)

  const int32_t* At(size_t tile, Row row) const { return numbers + (tile * rows + row) * kLanes; }
  const int8_t* Matrix(size_t tile) const { return matrix + tile * quads * kLanes * kQuad; }
  bool IsLimited() const { return rows > kLargest; }

  // Least and largest code that is ever written, and the bits of a code that are stored.
  const uint8_t* Bytes(size_t tile, ByteRow row) const {
    return reinterpret_cast<const uint8_t*>(At(tile, kBytes)) + row * kLanes;
  }
  uint64_t Octet(size_t octet, ByteRow row) const {
    return Load64(Bytes(octet / 2, row) + octet % 2 * kOctet);
  }
  uint64_t Used(size_t octet) const { return Octet(octet, kUsed); }

  // Whether every code that fits in its width is one that the encoder writes, as it is mostly.
  bool HasAllCodes() const {
    uint64_t missing = 0;
    for (size_t octet = 0; octet < 2 * tiles; ++octet) {
      missing |= Octet(octet, kLow) | (Octet(octet, kHigh) ^ Used(octet));
    }
    return missing == 0;
  }
};

// One group of channels.
struct Group {
  size_t first_channel = 0;
  size_t channels = 0;
  size_t components = 0;
  Stage analysis;
  Stage synthesis;
};

// Walks through the tables, and proves on its first walk that they are whole.
class Transform {
 public:
  size_t rows = 0;
  size_t columns = 0;
  size_t block_bits = 0;
  size_t components = 0;

  // Returns whether the tables are those of a map of so many channels.
  bool Read(const CodecSpec& spec) {
    if (spec.integers.size() < 4 || spec.channels < 1) return false;
    for (size_t i = 0; i < 4; ++i) {
      if (spec.integers[i] < 1 || spec.integers[i] > 1 << 20) return false;
    }
    rows = static_cast<size_t>(spec.integers[0]);
    columns = static_cast<size_t>(spec.integers[1]);
    group_ = static_cast<size_t>(spec.integers[2]);
    groups_ = static_cast<size_t>(spec.integers[3]);
    channels_ = static_cast<size_t>(spec.channels);
    integers_ = spec.integers.subspan(4);
    tables_ = spec.tables;
    if (rows * columns * group_ > kMostElements) return false;
    if (groups_ != (channels_ + group_ - 1) / group_) return false;
    Cursor cursor = Begin();
    for (size_t i = 0; i < groups_; ++i) {
      Group group;
      if (!Next(&cursor, &group)) return false;
      components += group.components;
      for (size_t octet = 0; octet < 2 * group.analysis.tiles; ++octet) {
        block_bits += static_cast<size_t>(std::popcount(group.analysis.Used(octet)));
      }
    }
    return cursor.integers.empty() && cursor.tables.empty();
  }

  // Calls visit(group) for every group in the order of its channels.
  template <typename Visit>
  void ForEachGroup(Visit visit) const {
    Cursor cursor = Begin();
    Group group;
    for (size_t i = 0; i < groups_ && Next(&cursor, &group); ++i) visit(group);
  }

 private:
  struct Cursor {
    size_t channel;
    std::span<const int32_t> integers;
    std::span<const uint8_t> tables;
  };

  Cursor Begin() const { return {0, integers_, tables_}; }

  bool Next(Cursor* cursor, Group* group) const {
    if (cursor->integers.empty() || cursor->integers[0] < 0) return false;
    group->first_channel = cursor->channel;
    group->channels = std::min(group_, channels_ - cursor->channel);
    group->components = static_cast<size_t>(cursor->integers[0]);
    if (group->components > kMostElements) return false;
    const size_t elements = rows * columns * group->channels;
    cursor->integers = cursor->integers.subspan(1);
    cursor->channel += group->channels;
    return NextStage(cursor, elements, group->components, 4, &group->analysis) &&
           NextStage(cursor, group->components, elements, 2, &group->synthesis);
  }

  static bool NextStage(Cursor* cursor, size_t inputs, size_t outputs, size_t number_rows,
                        Stage* stage) {
    stage->tiles = (outputs + kLanes - 1) / kLanes;
    stage->quads = (inputs + kQuad - 1) / kQuad;
    stage->rows = number_rows;
    stage->numbers = cursor->integers.data();
    stage->matrix = reinterpret_cast<const int8_t*>(cursor->tables.data());
    const size_t numbers = stage->tiles * number_rows * kLanes;
    const size_t products = stage->tiles * stage->quads * kLanes * kQuad;
    if (cursor->integers.size() < numbers || cursor->tables.size() < products) return false;
    cursor->integers = cursor->integers.subspan(numbers);
    cursor->tables = cursor->tables.subspan(products);
    return true;
  }

  size_t group_ = 0;
  size_t groups_ = 0;
  size_t channels_ = 0;
  std::span<const int32_t> integers_;
  std::span<const uint8_t> tables_;
};

// Copies the channels of one pixel; 16 or 8 of them, the usual groups, without a call.
inline void CopyChannels(const uint8_t* from, size_t channels, uint8_t* to) {
  if (channels == 16) {
    std::memcpy(to, from, 16);
  } else if (channels == 8) {
    std::memcpy(to, from, 8);
  } else {
    std::memcpy(to, from, channels);
  }
}

// Where one block lies in a unit; behind the last row and column, the last ones are repeated.
struct BlockPlace {
  size_t row;
  size_t column;
};

// Blocks of a batch side by side, all of them whole: pixels without a look at the edges.
template <typename Visit>
void ForEachPixel(const Transform& transform, size_t blocks, size_t channels, Visit visit) {
  for (size_t i = 0; i < transform.rows; ++i) {
    for (size_t block = 0; block < blocks; ++block) {
      for (size_t j = 0; j < transform.columns; ++j) {
        const size_t element = (i * transform.columns + j) * channels;
        visit(i, block * transform.columns + j, block, element);
      }
    }
  }
}

inline void Gather(const ConstRows& rows, int32_t width, const Transform& transform,
                   BlockPlace place, size_t blocks, const Group& group, Batch* batch) {
  const auto last_row = static_cast<size_t>(rows.count) - 1;
  const auto last_column = static_cast<size_t>(width) - 1;
  const bool inside = place.row + transform.rows <= last_row + 1 &&
                      place.column + blocks * transform.columns <= last_column + 1;
  const size_t channels = group.channels;
  if (inside) {
    ForEachPixel(
        transform, blocks, channels, [&](size_t i, size_t j, size_t block, size_t element) {
          const uint8_t* row = rows.rows[place.row + i] + group.first_channel;
          const uint8_t* pixel = row + static_cast<ptrdiff_t>(place.column + j) * rows.pixel_bytes;
          CopyChannels(pixel, channels, (*batch)[block].data() + element);
        });
    return;
  }
  ForEachPixel(transform, blocks, channels, [&](size_t i, size_t j, size_t block, size_t element) {
    const size_t row = std::min(place.row + i, last_row);
    const size_t column = std::min(place.column + j, last_column);
    const uint8_t* pixel = rows.rows[row] + static_cast<ptrdiff_t>(column) * rows.pixel_bytes;
    CopyChannels(pixel + group.first_channel, channels, (*batch)[block].data() + element);
  });
}

// The part of a batch that lies in columns first .. stop - 1, the first of which is rows' first.
inline void Scatter(const Batch& batch, const Transform& transform, BlockPlace place, size_t blocks,
                    const Group& group, size_t first, size_t stop, const MutableRows& rows) {
  const auto high = static_cast<size_t>(rows.count);
  const bool inside = place.row + transform.rows <= high && place.column >= first &&
                      place.column + blocks * transform.columns <= stop;
  const size_t channels = group.channels;
  if (inside) {
    ForEachPixel(transform, blocks, channels,
                 [&](size_t i, size_t j, size_t block, size_t element) {
                   uint8_t* row = rows.rows[place.row + i] + group.first_channel;
                   uint8_t* pixel =
                       row + static_cast<ptrdiff_t>(place.column + j - first) * rows.pixel_bytes;
                   CopyChannels(batch[block].data() + element, channels, pixel);
                 });
    return;
  }
  ForEachPixel(transform, blocks, channels, [&](size_t i, size_t j, size_t block, size_t element) {
    const size_t row = place.row + i;
    const size_t column = place.column + j;
    if (row >= high || column < first || column >= stop) return;
    uint8_t* pixel = rows.rows[row] + static_cast<ptrdiff_t>(column - first) * rows.pixel_bytes;
    CopyChannels(batch[block].data() + element, channels, pixel + group.first_channel);
  });
}

// How a stage is computed, and eight codes are packed and unpacked.
struct PortableTransform {
  static void Apply(const Stage& stage, size_t blocks, const Batch& in, Batch* out) {
    for (size_t block = 0; block < blocks; ++block) {
      for (size_t tile = 0; tile < stage.tiles; ++tile) {
        ApplyTile(stage, tile, in[block].data(), (*out)[block].data() + tile * kLanes);
      }
    }
  }

  static uint64_t Pack(uint64_t codes, uint64_t used) {
    uint64_t word = 0;
    int shift = 0;
    for (size_t i = 0; i < kOctet; ++i) {
      const uint64_t largest = used >> 8 * i & 0xFF;
      // A code of no bits is 0, and behind it the shift may be all of 64.
      if (largest != 0) word |= (codes >> 8 * i & 0xFF) << shift;
      shift += std::popcount(largest);
    }
    return word;
  }

  static uint64_t Unpack(uint64_t word, uint64_t used) {
    uint64_t codes = 0;
    int shift = 0;
    for (size_t i = 0; i < kOctet; ++i) {
      const uint64_t largest = used >> 8 * i & 0xFF;
      if (largest == 0) continue;
      codes |= (word >> shift & largest) << 8 * i;
      shift += std::popcount(largest);
    }
    return codes;
  }

 private:
  static void ApplyTile(const Stage& stage, size_t tile, const uint8_t* in, uint8_t* out) {
    std::array<int32_t, kLanes> sums;
    std::copy_n(stage.At(tile, Stage::kBias), kLanes, sums.begin());
    const int8_t* matrix = stage.Matrix(tile);
    for (size_t quad = 0; quad < stage.quads; ++quad, in += kQuad, matrix += kLanes * kQuad) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const int8_t* row = matrix + lane * kQuad;
        sums[lane] += in[0] * row[0] + in[1] * row[1] + in[2] * row[2] + in[3] * row[3];
      }
    }
    const int32_t* shift = stage.At(tile, Stage::kShift);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const int32_t most = stage.IsLimited() ? stage.At(tile, Stage::kLargest)[lane] : 255;
      out[lane] = static_cast<uint8_t>(std::clamp(sums[lane] >> shift[lane], 0, most));
    }
  }
};

// Whether every code of a block is one that the encoder writes.
inline bool AreCodes(const Stage& stage, const BlockBytes& codes) {
  bool good = true;
  for (size_t octet = 0; octet < 2 * stage.tiles; ++octet) {
    const uint64_t low = stage.Octet(octet, Stage::kLow);
    const uint64_t high = stage.Octet(octet, Stage::kHigh);
    const uint64_t word = Load64(codes.data() + octet * kOctet);
    for (size_t i = 0; i < 8 * kOctet; i += 8) {
      const uint64_t code = word >> i & 0xFF;
      good &= code >= (low >> i & 0xFF) && code <= (high >> i & 0xFF);
    }
  }
  return good;
}

#if defined(__x86_64__)

#define THINMAPS_TRANSFORM_AVX2 [[gnu::target("avx2,bmi2")]]

struct Avx2Transform {
  THINMAPS_TRANSFORM_AVX2 static void Apply(const Stage& stage, size_t blocks, const Batch& in,
                                            Batch* out) {
    for (size_t block = 0; block < blocks; block += kPair) {
      for (size_t tile = 0; tile < stage.tiles; ++tile) ApplyTile(stage, tile, block, in, out);
    }
  }

  THINMAPS_TRANSFORM_AVX2 static uint64_t Pack(uint64_t codes, uint64_t used) {
    return _pext_u64(codes, used);
  }
  THINMAPS_TRANSFORM_AVX2 static uint64_t Unpack(uint64_t word, uint64_t used) {
    return _pdep_u64(word, used);
  }

 private:
  static constexpr size_t kPair = 2;     // blocks that share what is widened of the matrix
  static constexpr size_t kWidened = 4;  // lanes whose quads fill a register as 16 bits

  // Every sum is two halves until the end: products of bytes 0 and 1, and of 2 and 3, of quads.
  THINMAPS_TRANSFORM_AVX2 static void ApplyTile(const Stage& stage, size_t tile, size_t first,
                                                const Batch& in, Batch* out) {
    __m256i halves[kPair][kLanes / kWidened] = {};
    const int8_t* matrix = stage.Matrix(tile);
    for (size_t quad = 0; quad < stage.quads; ++quad) {
      __m256i x[kPair];
      for (size_t i = 0; i < kPair; ++i) {
        int32_t word;
        std::memcpy(&word, in[first + i].data() + quad * kQuad, sizeof word);
        x[i] = _mm256_cvtepu8_epi16(_mm_set1_epi32(word));
      }
      for (size_t part = 0; part < kLanes / kWidened; ++part, matrix += kWidened * kQuad) {
        const __m256i wide =
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(matrix)));
        for (size_t i = 0; i < kPair; ++i) {
          halves[i][part] = _mm256_add_epi32(halves[i][part], _mm256_madd_epi16(x[i], wide));
        }
      }
    }
    for (size_t i = 0; i < kPair; ++i) {
      const __m256i low = Shifted(stage, tile, 0, halves[i][0], halves[i][1]);
      const __m256i high = Shifted(stage, tile, kLanes / 2, halves[i][2], halves[i][3]);
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
      const __m128i bytes =
          _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>((*out)[first + i].data() + tile * kLanes), bytes);
    }
  }

  // Eight lanes from their halves: `std::clamp(sum >> shift, 0, most)`.
  THINMAPS_TRANSFORM_AVX2 static __m256i Shifted(const Stage& stage, size_t tile, size_t lane,
                                                 __m256i first, __m256i second) {
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xD8);
    const __m256i shifted =
        _mm256_srav_epi32(_mm256_add_epi32(sums, Row(stage, tile, Stage::kBias, lane)),
                          Row(stage, tile, Stage::kShift, lane));
    const __m256i most =
        stage.IsLimited() ? Row(stage, tile, Stage::kLargest, lane) : _mm256_set1_epi32(255);
    return _mm256_min_epi32(_mm256_max_epi32(shifted, _mm256_setzero_si256()), most);
  }

  THINMAPS_TRANSFORM_AVX2 static __m256i Row(const Stage& stage, size_t tile, Stage::Row row,
                                             size_t lane) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(stage.At(tile, row) + lane));
  }
};

#define THINMAPS_TRANSFORM_AVX512 \
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2")]]

struct Avx512Transform {
  THINMAPS_TRANSFORM_AVX512 static void Apply(const Stage& stage, size_t, const Batch& in,
                                              Batch* out) {
    size_t tile = 0;
    for (; tile + 4 <= stage.tiles; tile += 4) ApplyTiles<4>(stage, tile, in, out);
    for (; tile + 2 <= stage.tiles; tile += 2) ApplyTiles<2>(stage, tile, in, out);
    for (; tile < stage.tiles; ++tile) ApplyTiles<1>(stage, tile, in, out);
  }

  THINMAPS_TRANSFORM_AVX512 static uint64_t Pack(uint64_t codes, uint64_t used) {
    return _pext_u64(codes, used);
  }
  THINMAPS_TRANSFORM_AVX512 static uint64_t Unpack(uint64_t word, uint64_t used) {
    return _pdep_u64(word, used);
  }

 private:
  // Every block of a batch, also those that nobody asked for: a quad of each meets all tiles.
  template <size_t kTiles>
  [[gnu::noinline]] THINMAPS_TRANSFORM_AVX512 static void ApplyTiles(const Stage& stage,
                                                                     size_t first, const Batch& in,
                                                                     Batch* out) {
    __m512i sums[kTiles][kBatch];
#pragma GCC unroll 4
    for (size_t tile = 0; tile < kTiles; ++tile) {
      const __m512i bias = _mm512_loadu_si512(stage.At(first + tile, Stage::kBias));
#pragma GCC unroll 4
      for (size_t block = 0; block < kBatch; ++block) sums[tile][block] = bias;
    }
    for (size_t quad = 0; quad < stage.quads; ++quad) {
      __m512i x[kBatch];
#pragma GCC unroll 4
      for (size_t block = 0; block < kBatch; ++block) {
        int32_t word;
        std::memcpy(&word, in[block].data() + quad * kQuad, sizeof word);
        x[block] = _mm512_set1_epi32(word);
      }
#pragma GCC unroll 4
      for (size_t tile = 0; tile < kTiles; ++tile) {
        const __m512i matrix =
            _mm512_loadu_si512(stage.Matrix(first + tile) + quad * kLanes * kQuad);
#pragma GCC unroll 4
        for (size_t block = 0; block < kBatch; ++block) {
          sums[tile][block] = _mm512_dpbusd_epi32(sums[tile][block], x[block], matrix);
        }
      }
    }
#pragma GCC unroll 4
    for (size_t tile = 0; tile < kTiles; ++tile) {
      const __m512i shift = _mm512_loadu_si512(stage.At(first + tile, Stage::kShift));
      const __m512i most = stage.IsLimited()
                               ? _mm512_loadu_si512(stage.At(first + tile, Stage::kLargest))
                               : _mm512_set1_epi32(255);
#pragma GCC unroll 4
      for (size_t block = 0; block < kBatch; ++block) {
        const __m512i shifted = _mm512_srav_epi32(sums[tile][block], shift);
        const __m512i inside =
            _mm512_min_epi32(_mm512_max_epi32(shifted, _mm512_setzero_si512()), most);
        _mm_storeu_si128(reinterpret_cast<__m128i*>((*out)[block].data() + (first + tile) * kLanes),
                         _mm512_cvtepi32_epi8(inside));
      }
    }
  }
};

#endif

}  // namespace thinmaps
