// SPDX-License-Identifier: Apache-2.0
// The inner loops of conv_row.h, compiled once per instruction set like loops.cc: the build defines
// THINMAPS_CONV_LOOPS, the name of the table, and THINMAPS_AMX where tiles may be used,
// THINMAPS_NEON on ARM.
//
// Work goes in tiles of kPixels pixels by kBlocks blocks of 16 output channels. conv_tile.h has
// what one does with a piece; here is where its bytes come from and where its sums go.
#include "conv_row.h"

#include "conv_tile.h"
#include "rounding.h"

#if defined(__AVX2__)
#include "rounding_avx2.h"
#elif defined(THINMAPS_NEON)
#include "rounding_neon.h"
#endif

namespace thinmaps {
namespace {

// kPixels runs of bytes, `step` apart.
struct Source {
  const uint8_t* bytes;
  ptrdiff_t step;
};

#if defined(__AVX512BW__)

// buffer[p][i] = inside the row ? row[start + p * step + i] : zero point
inline void Stage(const ConvRow& conv, const Piece&, const uint8_t* row, ptrdiff_t start,
                  int32_t count, uint8_t* buffer) {
  const __m512i padding = _mm512_loadu_si512(conv.padding);
  for (int32_t p = 0; p < count; ++p, start += conv.step, buffer += kPieceBytes) {
    if (start >= 0 && start + kPieceBytes <= conv.row_bytes) {
      _mm512_store_si512(buffer, _mm512_loadu_si512(row + start));
      continue;
    }
    const ptrdiff_t low = start < 0 ? -start : 0;
    const ptrdiff_t left = conv.row_bytes - start;
    const ptrdiff_t inside = (left < kPieceBytes ? left : kPieceBytes) - low;
    const __mmask64 mask = inside <= 0 ? 0 : ~uint64_t{0} >> (kPieceBytes - inside) << low;
    _mm512_store_si512(buffer, _mm512_mask_loadu_epi8(padding, mask, row + start));
  }
}

#else

// Bytes past those that `piece` reads are left as they are.
inline void Stage(const ConvRow& conv, const Piece& piece, const uint8_t* row, ptrdiff_t start,
                  int32_t count, uint8_t* buffer) {
  const int32_t bytes = BytesRead(conv, piece);
  for (int32_t p = 0; p < count; ++p, start += conv.step, buffer += kPieceBytes) {
    if (start >= 0 && start + kPieceBytes <= conv.row_bytes) {
      __builtin_memcpy(buffer, row + start, kPieceBytes);
    } else if (start + bytes <= 0 || start >= conv.row_bytes) {
      __builtin_memcpy(buffer, conv.padding, kPieceBytes);
    } else {
      for (int32_t i = 0; i < bytes; ++i) {
        const bool inside = start + i >= 0 && start + i < conv.row_bytes;
        buffer[i] = inside ? row[start + i] : conv.padding[0];
      }
    }
  }
}

#endif

// The bytes of `piece` under kPixels pixels from place `first` on, `count` of which matter: where
// they lie if all may be read there, else in `buffer`.
template <int kPixels>
inline Source Find(const ConvRow& conv, const Piece& piece, ptrdiff_t first, int32_t count,
                   uint8_t* buffer) {
  const uint8_t* row = conv.rows[piece.row];
  if (row == nullptr) return {conv.padding, 0};
  const ptrdiff_t start = first + piece.offset;
  const ptrdiff_t last = start + (kPixels - 1) * conv.step;
  if (start >= 0 && last + BytesRead(conv, piece) <= conv.row_bytes)
    return {row + start, conv.step};
  Stage(conv, piece, row, start, count, buffer);
  return {buffer, kPieceBytes};
}

#if defined(__AVX512BW__)

// Vectors of sums that Finish takes at a time; a tile holds whole such groups.
constexpr int32_t kFinishVectors = 4;

// A float32 head: out = fl(sum + bias) * multiplier.
void FinishFloats(const ConvRow& conv, const int32_t* sums, int32_t blocks, int32_t count,
                  uint8_t* out) {
  for (int32_t p = 0; p < count; ++p, out += conv.out_step) {
    for (int32_t k = 0; k < blocks * kBlockChannels; k += kBlockChannels, sums += kBlockChannels) {
      const int32_t left = conv.channels - k;
      const auto real = static_cast<__mmask16>(left < kBlockChannels ? (1 << left) - 1 : 0xFFFF);
      const __m512i sum =
          _mm512_add_epi32(_mm512_load_si512(sums), _mm512_loadu_si512(conv.bias + k));
      const __m512 factor = _mm512_loadu_ps(conv.multiplier + k);
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor);
      _mm512_mask_storeu_ps(reinterpret_cast<float*>(out) + k, real, value);
    }
  }
}

// The bytes of 2 pixels of 2 blocks, or of 4 pixels of 1; `count` of the pixels exist.
template <int kBlocks>
inline void StorePixels(__m512i bytes, __mmask32 real, int32_t count, uint8_t* out,
                        ptrdiff_t step) {
  const __m256i front = _mm512_castsi512_si256(bytes);
  const __m256i back = _mm512_extracti64x4_epi64(bytes, 1);
  if constexpr (kBlocks == 2) {
    _mm256_mask_storeu_epi8(out, real, front);
    if (count > 1) _mm256_mask_storeu_epi8(out + step, real, back);
  } else {
    const auto half = static_cast<__mmask16>(real);
    _mm_mask_storeu_epi8(out, half, _mm256_castsi256_si128(front));
    if (count > 1) _mm_mask_storeu_epi8(out + step, half, _mm256_extracti128_si256(front, 1));
    if (count > 2) _mm_mask_storeu_epi8(out + 2 * step, half, _mm256_castsi256_si128(back));
    if (count > 3) _mm_mask_storeu_epi8(out + 3 * step, half, _mm256_extracti128_si256(back, 1));
  }
}

// byte = rne(clamp(fl(sum + bias) * multiplier)) + after; four vectors of sums, kPixels pixels of
// kBlocks blocks, become bytes at a time. low and high leave a byte when `after` is added.
template <int kBlocks>
void Finish(const ConvRow& conv, const int32_t* sums, int32_t count, uint8_t* out) {
  constexpr int kVectors = kFinishVectors;
  constexpr int kPixels = kVectors / kBlocks;
  if (conv.is_float) return FinishFloats(conv, sums, kBlocks, count, out);
  __m512i bias[kBlocks];
  __m512 multiplier[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    bias[b] = _mm512_loadu_si512(conv.bias + b * kBlockChannels);
    multiplier[b] = _mm512_loadu_ps(conv.multiplier + b * kBlockChannels);
  }
  const __m512 low = _mm512_set1_ps(conv.rounding.low);
  const __m512 high = _mm512_set1_ps(conv.rounding.high);
  const __m512i after = _mm512_set1_epi16(static_cast<int16_t>(conv.rounding.after));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto real = static_cast<__mmask32>(~uint32_t{0} >> (32 - conv.channels));
  const ptrdiff_t out_step = conv.out_step;
  for (int32_t p = 0; p < count; p += kPixels) {
    __m512i rounded[kVectors];
    for (int v = 0; v < kVectors; ++v, sums += kBlockChannels) {
      const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums), bias[v % kBlocks]);
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), multiplier[v % kBlocks]);
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
      rounded[v] = _mm512_cvt_roundps_epi32(clamped, 8);  // to nearest, no exceptions
    }
    const __m512i front = _mm512_add_epi16(_mm512_packs_epi32(rounded[0], rounded[1]), after);
    const __m512i back = _mm512_add_epi16(_mm512_packs_epi32(rounded[2], rounded[3]), after);
    const __m512i packed = _mm512_packus_epi16(front, back);
    // Packing took 4 bytes of each vector in turn.
    StorePixels<kBlocks>(_mm512_permutexvar_epi32(order, packed), real, count - p, out, out_step);
    out += kPixels * out_step;
  }
}

#else

constexpr int32_t kFinishVectors = 1;

void StoreBytes(const uint8_t* bytes, int32_t count, uint8_t* out) {
  if (count == kBlockChannels) {
    __builtin_memcpy(out, bytes, kBlockChannels);
  } else {
    __builtin_memcpy(out, bytes, static_cast<size_t>(count));
  }
}

// A float32 head: out = fl(sum + bias) * multiplier.
void FinishFloats(const ConvRow& conv, const int32_t* sums, int32_t count, uint8_t* out) {
  for (int32_t p = 0; p < count; ++p, sums += kBlockChannels, out += conv.out_step) {
    float values[kBlockChannels];
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      values[k] = static_cast<float>(sums[k] + conv.bias[k]) * conv.multiplier[k];
    }
    __builtin_memcpy(out, values, static_cast<size_t>(conv.channels) * sizeof(float));
  }
}

// byte = Rounding of fl(sum + bias) * multiplier.
template <int kBlocks>
void Finish(const ConvRow& conv, const int32_t* sums, int32_t count, uint8_t* out) {
  static_assert(kBlocks == 1);
  if (conv.is_float) return FinishFloats(conv, sums, count, out);
  const int32_t channels = conv.channels;
  const ptrdiff_t out_step = conv.out_step;
  alignas(16) uint8_t bytes[kBlockChannels];
#if defined(__AVX2__)
  const VectorRounding rounding(conv.rounding);
  const auto* bias = reinterpret_cast<const __m256i*>(conv.bias);
  const __m256i biases[2] = {bias[0], bias[1]};
  const __m256 multiplier[2] = {_mm256_loadu_ps(conv.multiplier),
                                _mm256_loadu_ps(conv.multiplier + 8)};
  for (int32_t p = 0; p < count; ++p, sums += kBlockChannels, out += out_step) {
    const auto* from = reinterpret_cast<const __m256i*>(sums);
    const __m256i sum[2] = {_mm256_add_epi32(from[0], biases[0]),
                            _mm256_add_epi32(from[1], biases[1])};
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes), rounding.Bytes(sum, multiplier));
    StoreBytes(bytes, channels, out);
  }
#elif defined(THINMAPS_NEON)
  const VectorRounding rounding(conv.rounding);
  const int32x4x4_t bias = vld1q_s32_x4(conv.bias);
  const float32x4x4_t multiplier = vld1q_f32_x4(conv.multiplier);
  for (int32_t p = 0; p < count; ++p, sums += kBlockChannels, out += out_step) {
    int32x4_t sum[4];
    for (int v = 0; v < 4; ++v) sum[v] = vaddq_s32(vld1q_s32(sums + 4 * v), bias.val[v]);
    vst1q_u8(bytes, rounding.Bytes(sum, multiplier.val));
    StoreBytes(bytes, channels, out);
  }
#else
  const Rounding rounding = conv.rounding;
  const int32_t* bias = conv.bias;
  const float* multiplier = conv.multiplier;
  for (int32_t p = 0; p < count; ++p, sums += kBlockChannels, out += out_step) {
#if !defined(__clang__)
#pragma GCC unroll 1  // unrolled, g++ would not see a vector in it
#endif
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      bytes[k] = RoundToByte(static_cast<float>(sums[k] + bias[k]) * multiplier[k], rounding);
    }
    StoreBytes(bytes, channels, out);
  }
#endif
}

#endif

// Asks for the filters of a piece a few pieces ahead; past the last one it does no harm.
inline void FetchAhead(const ConvRow& conv, const Piece& piece, int32_t blocks) {
  constexpr int32_t kAhead = 4;
  const int32_t bytes = conv.piece_bytes * kBlockChannels;
  for (int32_t b = 0; b < blocks; ++b) {
    const int8_t* filters = conv.filters + b * conv.block_filters + piece.filters + kAhead * bytes;
    for (int32_t i = 0; i < bytes; i += kPieceBytes) __builtin_prefetch(filters + i);
  }
}

// The pixels of a tile: `count` of them from pixel `first` of output row `row` on, over the ends of
// rows. Calls each(row, first, count) for those of every row.
struct Pixels {
  int32_t row, first, count;

  template <typename Do>
  void ForRows(const ConvRow& conv, Do each) const {
    Pixels left = *this;
    while (left.count > 0) {
      const int32_t here = conv.pixels - left.first;
      const int32_t some = left.count < here ? left.count : here;
      each(left.row, left.first, some);
      left = {left.row + 1, 0, left.count - some};
    }
  }
};

#if defined(__AVX512VNNI__) && !defined(THINMAPS_AMX)

// Multiplies a piece under pixels of several rows where they lie; only those that are partly
// outside of a row are copied.
template <int kPixels, int kBlocks>
inline void MultiplyRows(Tile<kPixels, kBlocks>& tile, const ConvRow& conv, int32_t i,
                         const Pixels& pixels, uint8_t* buffer) {
  const Piece& piece = conv.pieces[i];
  const int32_t bytes = BytesRead(conv, piece);
  const uint8_t* x[kPixels];
  const uint8_t** to = x;
  pixels.ForRows(conv, [&](int32_t row, int32_t first, int32_t count) {
    const uint8_t* under = conv.rows[row * conv.window_rows + piece.row];
    ptrdiff_t start = conv.first + first * conv.step + piece.offset;
    for (int32_t p = 0; p < count; ++p, start += conv.step, ++to) {
      const bool outside = under == nullptr || start + bytes <= 0 || start >= conv.row_bytes;
      *to = outside ? conv.padding : under + start;
      if (outside || (start >= 0 && start + bytes <= conv.row_bytes)) continue;
      Stage(conv, piece, under, start, 1, buffer);
      *to = buffer;
      buffer += kPieceBytes;
    }
  });
  for (; to < x + kPixels; ++to) *to = conv.padding;
  tile.MultiplyAt(conv, i, x);
}

#else

// Copies the bytes of a piece under pixels of several rows, kPieceBytes apart.
inline void Gather(const ConvRow& conv, const Piece& piece, const Pixels& pixels, uint8_t* buffer) {
  uint8_t* to = buffer;
  pixels.ForRows(conv, [&](int32_t row, int32_t first, int32_t count) {
    const uint8_t* under = conv.rows[row * conv.window_rows + piece.row];
    const auto bytes = static_cast<size_t>(count) * kPieceBytes;
    if (under != nullptr) {
      Stage(conv, piece, under, conv.first + first * conv.step + piece.offset, count, to);
    } else {
      __builtin_memset(to, conv.padding[0], bytes);
    }
    to += bytes;
  });
}

template <int kPixels, int kBlocks>
inline void MultiplyRows(Tile<kPixels, kBlocks>& tile, const ConvRow& conv, int32_t i,
                         const Pixels& pixels, uint8_t* buffer) {
  Gather(conv, conv.pieces[i], pixels, buffer);
  tile.Multiply(conv, i, buffer, kPieceBytes);
}

#endif

// Pixels p .. p + count - 1 of all rows, at most kPixels.
template <int kPixels, int kBlocks>
void RunTile(const ConvRow& conv, int32_t p, int32_t count) {
  constexpr int32_t kPixelSums = kBlocks * kBlockChannels;
  constexpr int32_t kPast = (kFinishVectors - 1) * kBlockChannels;  // Finish reads, and drops
  alignas(64) uint8_t buffer[kPixels * kPieceBytes];
  alignas(64) int32_t sums[kPixels * kPixelSums + kPast];
  const ptrdiff_t first = conv.first + p * conv.step;
  const bool far = conv.far_filters;
  const bool alone = conv.out_rows == 1;
  const Pixels pixels{p / conv.pixels, p % conv.pixels, count};
  Tile<kPixels, kBlocks> tile;
  tile.Clear();
  for (int32_t i = 0; i < conv.piece_count; ++i) {
    const Piece& piece = conv.pieces[i];
    if (alone && conv.rows[piece.row] == nullptr && conv.padding[0] == kShift) continue;
    if (far && p == 0) FetchAhead(conv, piece, kBlocks);
    if (alone) {
      const Source x = Find<kPixels>(conv, piece, first, count, buffer);
      tile.Multiply(conv, i, x.bytes, x.step);
    } else {
      MultiplyRows(tile, conv, i, pixels, buffer);
    }
  }
  tile.Store(sums);
  __builtin_memset(sums + kPixels * kPixelSums, 0, kPast * sizeof(int32_t));
  const int32_t* from = sums;
  pixels.ForRows(conv, [&](int32_t row, int32_t column, int32_t some) {
    Finish<kBlocks>(conv, from, some, conv.out[row] + column * conv.out_step);
    from += some * kPixelSums;
  });
}

// In the narrowest tile that has room.
template <int kPixels, int kBlocks>
void RunFitting(const ConvRow& conv, int32_t p, int32_t count) {
  if constexpr (kPixels > kTileStep) {
    if (count <= kPixels - kTileStep) {
      return RunFitting<kPixels - kTileStep, kBlocks>(conv, p, count);
    }
  }
  RunTile<kPixels, kBlocks>(conv, p, count);
}

// In tiles of one width, as few as can be; the last one may be narrower.
template <int kBlocks>
void RunTiles(const ConvRow& conv) {
  constexpr int32_t kWidest = kBlocks == 1 ? kWidePixels : kWidePairPixels;
  const int32_t pixels = conv.pixels * conv.out_rows;
  const int32_t tiles = (pixels + kWidest - 1) / kWidest;
  const int32_t width = ((pixels + tiles - 1) / tiles + kTileStep - 1) / kTileStep * kTileStep;
  for (int32_t p = 0; p < pixels; p += width) {
    RunFitting<kWidest, kBlocks>(conv, p, width < pixels - p ? width : pixels - p);
  }
}

void Row(const ConvRow& conv) {
  if (conv.blocks == 1) return RunTiles<1>(conv);
  if constexpr (kMostBlocks > 1) RunTiles<kMostBlocks>(conv);
}

}  // namespace

extern const ConvLoops THINMAPS_CONV_LOOPS;
const ConvLoops THINMAPS_CONV_LOOPS = {StartTiles, Row,         StopTiles,    kMostBlocks,
                                       kNarrowRow, kSortsQuads, kWholePieces, kShift};

}  // namespace thinmaps
