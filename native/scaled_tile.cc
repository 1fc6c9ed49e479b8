// SPDX-License-Identifier: Apache-2.0
// The inner loops of scaled_tile.h, compiled once per instruction set: the build defines
// THINMAPS_TILE_LOOPS, the name of the table.
//
// Every bound is proved when the kernel is made: transformed inputs fit 16 bits with all sums on
// the way, products and outputs 32. Sums of integers are exact in any order.
#include "scaled_tile.h"

#include "load_four.h"
#include "rounding.h"
#include "unroll.h"
#include "winograd_transforms.h"

#if defined(__AVX2__)
#include "rounding_avx2.h"
#endif

namespace thinmaps {
namespace {

constexpr int32_t kLanes = kBlockChannels;

// out[a][j] = sum over i of matrix[a][i] * in[i][j], lane by lane, where strides count vectors.
template <typename T>
void Transform(const int8_t* matrix, int32_t rows, int32_t columns, const T* in,
               ptrdiff_t in_stride, T* out, ptrdiff_t out_stride) {
  for (int32_t a = 0; a < rows; ++a) {
    T* to = out + a * out_stride * kLanes;
    for (int32_t c = 0; c < kLanes; ++c) to[c] = 0;
    for (int32_t i = 0; i < columns; ++i) {
      const T factor = matrix[a * columns + i];
      if (factor == 0) continue;
      const T* from = in + i * in_stride * kLanes;
      for (int32_t c = 0; c < kLanes; ++c) to[c] = static_cast<T>(to[c] + factor * from[c]);
    }
  }
}

// V is rounded to bytes: (V * scale + 2^14) >> 15, saturated.
void StoreBytes(const int16_t* values, const int16_t* scale, uint8_t* bytes) {
  for (int32_t c = 0; c < kLanes; ++c) {
    const int32_t scaled = (values[c] * scale[c] + (1 << 14)) >> 15;
    const int32_t low = scaled < -kByteOffset ? -kByteOffset : scaled;
    bytes[c] = static_cast<uint8_t>((low > kByteOffset - 1 ? kByteOffset - 1 : low) + kByteOffset);
  }
}

void PlainInputs(const TileInputs& tile) {
  alignas(64) int16_t in[kMostTileInputs * kMostTileInputs * kLanes];
  alignas(64) int16_t half[kMostTileProducts * kMostTileInputs * kLanes];
  alignas(64) int16_t row[kMostTileProducts * kLanes];
  const int32_t side = tile.matrices.inputs;
  const int32_t products = tile.matrices.products;
  for (int32_t first = 0; first < tile.channels; first += kLanes) {
    for (int32_t i = 0; i < side * side; ++i) {
      for (int32_t c = 0; c < kLanes; ++c) {
        in[i * kLanes + c] = static_cast<int16_t>(tile.pixels[i][first + c] - tile.zero_point);
      }
    }
    for (int32_t j = 0; j < side; ++j) {
      Transform(tile.matrices.bt, products, side, in + j * kLanes, side, half + j * kLanes, side);
    }
    for (int32_t a = 0; a < products; ++a) {
      Transform(tile.matrices.bt, products, side, half + a * side * kLanes, 1, row, 1);
      for (int32_t b = 0; b < products; ++b) {
        const ptrdiff_t position = a * products + b;
        StoreBytes(row + b * kLanes, tile.scale + position * tile.channels + first,
                   tile.bytes + position * tile.position_step + first);
      }
    }
  }
}

void PlainOutputs(const TileOutputs& tile) {
  alignas(64) int32_t half[kMostTileOutputs * kMostTileProducts * kLanes];
  alignas(64) int32_t row[kMostTileOutputs * kLanes];
  const int32_t products = tile.matrices.products;
  const int32_t outputs = tile.matrices.outputs;
  const ptrdiff_t step = tile.position_step / kLanes;
  for (int32_t b = 0; b < products; ++b) {
    Transform(tile.matrices.at, outputs, products, tile.sums + b * tile.position_step,
              products * step, half + b * kLanes, products);
  }
  for (int32_t i = 0; i < tile.rows; ++i) {
    Transform(tile.matrices.at, outputs, products, half + i * products * kLanes, 1, row, 1);
    for (int32_t j = 0; j < tile.columns; ++j) {
      for (int32_t k = 0; k < tile.channels; ++k) {
        const auto sum = static_cast<float>(tile.bias[k] + row[j * kLanes + k]);
        tile.out[i][j * tile.out_step + k] = RoundToByte(sum * tile.multiplier[k], tile.rounding);
      }
    }
  }
}

#if defined(__AVX2__)

#if defined(__AVX512VNNI__)

// Of 16 bits each.
struct Shorts {
  static constexpr int32_t kCount = 32;
  using Mask = __mmask32;
  __m512i values;

  static Mask First(int32_t count) { return count < kCount ? (1u << count) - 1 : ~0u; }
  static Shorts Load(const uint8_t* bytes, int32_t zero_point, Mask mask) {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, bytes));
    return {_mm512_sub_epi16(wide, _mm512_set1_epi16(static_cast<int16_t>(zero_point)))};
  }
  // StoreBytes: the rounded product of two numbers in 2^-15 is an instruction.
  void Store(const int16_t* scale, uint8_t* bytes, Mask mask) const {
    const __m512i scaled = _mm512_mulhrs_epi16(values, _mm512_maskz_loadu_epi16(mask, scale));
    const __m256i narrow = _mm512_cvtsepi16_epi8(scaled);
    _mm256_mask_storeu_epi8(bytes, mask, _mm256_xor_si256(narrow, _mm256_set1_epi8(-128)));
  }
  friend Shorts operator+(Shorts a, Shorts b) { return {_mm512_add_epi16(a.values, b.values)}; }
  friend Shorts operator-(Shorts a, Shorts b) { return {_mm512_sub_epi16(a.values, b.values)}; }
};

// All outputs of a block, of 32 bits each.
struct Words {
  __m512i values;

  static Words Load(const int32_t* sums) { return {_mm512_loadu_si512(sums)}; }
  friend Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.values, b.values)}; }
  friend Words operator-(Words a, Words b) { return {_mm512_sub_epi32(a.values, b.values)}; }
};

// What turns the sums of a pixel into its bytes.
class PixelRounding {
 public:
  explicit PixelRounding(const TileOutputs& tile)
      : bias_(Words::Load(tile.bias)),
        multiplier_(_mm512_loadu_ps(tile.multiplier)),
        low_(_mm512_set1_ps(tile.rounding.low)),
        high_(_mm512_set1_ps(tile.rounding.high)),
        after_(_mm512_set1_epi32(tile.rounding.after)),
        real_(static_cast<__mmask16>((1u << tile.channels) - 1)) {}

  void Store(Words sums, uint8_t* out) const {
    const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps((sums + bias_).values), multiplier_);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, low_), high_));
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, after_));
    _mm_mask_storeu_epi8(out, real_, bytes);
  }

 private:
  Words bias_;
  __m512 multiplier_, low_, high_;
  __m512i after_;
  __mmask16 real_;
};

constexpr int32_t kTilesAtOnce = 8;

// The sums of some tiles are in registers while the weights of a position go by.
template <int kTiles>
void ProductsOf(const TileProducts& tile, int32_t position, int32_t first) {
  const int8_t* weights = tile.weights + ptrdiff_t{position} * tile.channels * kBlockChannels;
  const uint8_t* bytes =
      tile.bytes + position * tile.position_step + ptrdiff_t{first} * tile.channels;
  __m512i sum[kTiles];
  THINMAPS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    sum[t] = _mm512_loadu_si512(tile.offset + position * kBlockChannels);
  }
  for (int32_t c = 0; c < tile.channels; c += kQuad) {
    const __m512i quads = _mm512_loadu_si512(weights + c * kBlockChannels);
    THINMAPS_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const __m512i four = _mm512_set1_epi32(LoadFour(bytes + ptrdiff_t{t} * tile.channels + c));
      // In place: with the intrinsic, g++ 12 moves sums about and runs out of registers.
      asm("vpdpbusd %2, %1, %0" : "+v"(sum[t]) : "v"(four), "v"(quads));
    }
  }
  const __m512 scale = _mm512_loadu_ps(tile.scale + position * kBlockChannels);
  int32_t* to = tile.sums + (position * tile.tiles + first) * kBlockChannels;
  THINMAPS_UNROLL
  for (int t = 0; t < kTiles; ++t, to += kBlockChannels) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t]), scale);
    _mm512_storeu_si512(to, _mm512_cvtps_epi32(scaled));
  }
}

#else

// Of 16 bits each.
struct Shorts {
  static constexpr int32_t kCount = 16;
  using Mask = int32_t;
  __m256i values;

  static Mask First(int32_t) { return 0; }  // channels are whole blocks of as many
  static Shorts Load(const uint8_t* bytes, int32_t zero_point, Mask) {
    const __m256i wide =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    return {_mm256_sub_epi16(wide, _mm256_set1_epi16(static_cast<int16_t>(zero_point)))};
  }
  // StoreBytes: the rounded product of two numbers in 2^-15 is an instruction.
  void Store(const int16_t* scale, uint8_t* bytes, Mask) const {
    const __m256i factor = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scale));
    const __m256i scaled = _mm256_mulhrs_epi16(values, factor);
    const __m128i narrow =
        _mm_packs_epi16(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256(scaled, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_xor_si128(narrow, _mm_set1_epi8(-128)));
  }
  friend Shorts operator+(Shorts a, Shorts b) { return {_mm256_add_epi16(a.values, b.values)}; }
  friend Shorts operator-(Shorts a, Shorts b) { return {_mm256_sub_epi16(a.values, b.values)}; }
};

// All outputs of a block, of 32 bits each.
struct Words {
  __m256i low, high;

  static Words Load(const int32_t* sums) {
    const auto* from = reinterpret_cast<const __m256i*>(sums);
    return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
  }
  friend Words operator+(Words a, Words b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  friend Words operator-(Words a, Words b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
  }
};

// What turns the sums of a pixel into its bytes.
class PixelRounding {
 public:
  explicit PixelRounding(const TileOutputs& tile)
      : bias_(Words::Load(tile.bias)),
        multiplier_{_mm256_loadu_ps(tile.multiplier), _mm256_loadu_ps(tile.multiplier + 8)},
        rounding_(tile.rounding),
        channels_(static_cast<size_t>(tile.channels)) {}

  void Store(Words sums, uint8_t* out) const {
    const Words biased = sums + bias_;
    const __m256i both[] = {biased.low, biased.high};
    const __m128i bytes = rounding_.Bytes(both, multiplier_);
    __builtin_memcpy(out, &bytes, channels_);
  }

 private:
  Words bias_;
  __m256 multiplier_[2];
  VectorRounding rounding_;
  size_t channels_;
};

constexpr int32_t kTilesAtOnce = 2;

// Sums of two channels each, of 4 outputs in a register: bytes are widened, so that no pair of
// products leaves its word.
template <int kTiles>
void ProductsOf(const TileProducts& tile, int32_t position, int32_t first) {
  const int8_t* weights = tile.weights + ptrdiff_t{position} * tile.channels * kBlockChannels;
  const uint8_t* bytes =
      tile.bytes + position * tile.position_step + ptrdiff_t{first} * tile.channels;
  __m256i sum[kTiles][4];
  for (auto& of_tile : sum) {
    for (__m256i& part : of_tile) part = _mm256_setzero_si256();
  }
  for (int32_t c = 0; c < tile.channels; c += kQuad) {
    const auto* quads = reinterpret_cast<const __m128i*>(weights + c * kBlockChannels);
    __m256i four[kTiles];
    THINMAPS_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const int32_t loaded = LoadFour(bytes + ptrdiff_t{t} * tile.channels + c);
      four[t] = _mm256_cvtepu8_epi16(_mm_set1_epi32(loaded));
    }
    THINMAPS_UNROLL
    for (int k = 0; k < 4; ++k) {
      const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(quads + k));
      THINMAPS_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        sum[t][k] = _mm256_add_epi32(sum[t][k], _mm256_madd_epi16(wide, four[t]));
      }
    }
  }
  const int32_t* offset = tile.offset + position * kBlockChannels;
  int32_t* to = tile.sums + (position * tile.tiles + first) * kBlockChannels;
  for (int t = 0; t < kTiles; ++t) {
    for (int half = 0; half < 2; ++half, to += 8, offset += 8) {
      const __m256i pairs = _mm256_hadd_epi32(sum[t][2 * half], sum[t][2 * half + 1]);
      const __m256i whole =
          _mm256_add_epi32(_mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0)),
                           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset)));
      const __m256 scale = _mm256_loadu_ps(tile.scale + position * kBlockChannels + 8 * half);
      const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scale);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtps_epi32(scaled));
    }
    offset -= kBlockChannels;
  }
}

#endif

// In the fewest registers that have room.
template <int kTiles>
void ProductsFitting(const TileProducts& tile, int32_t position, int32_t first) {
  if constexpr (kTiles > 1) {
    if (tile.tiles - first < kTiles) return ProductsFitting<kTiles - 1>(tile, position, first);
  }
  ProductsOf<kTiles>(tile, position, first);
}

void Products(const TileProducts& tile) {
  for (int32_t position = 0; position < tile.positions; ++position) {
    for (int32_t first = 0; first < tile.tiles; first += kTilesAtOnce) {
      ProductsFitting<kTilesAtOnce>(tile, position, first);
    }
  }
}

template <class Set>
void InputsOf(const TileInputs& tile) {
  constexpr int32_t kSide = Set::kInputs;
  Shorts in[kSide * kSide];
  Shorts half[Set::kProducts * kSide];
  Shorts row[Set::kProducts];
  for (int32_t first = 0; first < tile.channels; first += Shorts::kCount) {
    const auto mask = Shorts::First(tile.channels - first);
    for (int32_t i = 0; i < kSide * kSide; ++i) {
      in[i] = Shorts::Load(tile.pixels[i] + first, tile.zero_point, mask);
    }
    for (int32_t j = 0; j < kSide; ++j) Set::InputTransform(in + j, kSide, half + j, kSide);
    for (int32_t a = 0; a < Set::kProducts; ++a) {
      Set::InputTransform(half + a * kSide, 1, row, 1);
      for (int32_t b = 0; b < Set::kProducts; ++b) {
        const ptrdiff_t position = a * Set::kProducts + b;
        row[b].Store(tile.scale + position * tile.channels + first,
                     tile.bytes + position * tile.position_step + first, mask);
      }
    }
  }
}

template <class Set>
void OutputsOf(const TileOutputs& tile) {
  constexpr int32_t kProducts = Set::kProducts;
  const PixelRounding rounding(tile);
  Words column[kProducts];
  Words half[Set::kOutputs * kProducts];
  Words row[Set::kOutputs];
  for (int32_t b = 0; b < kProducts; ++b) {
    for (int32_t a = 0; a < kProducts; ++a) {
      column[a] = Words::Load(tile.sums + (a * kProducts + b) * tile.position_step);
    }
    Set::OutputTransform(column, 1, half + b, kProducts);
  }
  for (int32_t i = 0; i < tile.rows; ++i) {
    Set::OutputTransform(half + i * kProducts, 1, row, 1);
    for (int32_t j = 0; j < tile.columns; ++j) {
      rounding.Store(row[j], tile.out[i] + j * tile.out_step);
    }
  }
}

void Inputs(const TileInputs& tile) {
  if (tile.matrices.set == TileSet::kF4x3Quadratic) return InputsOf<F4x3Quadratic>(tile);
  if (tile.matrices.set == TileSet::kF2x3) return InputsOf<F2x3>(tile);
  PlainInputs(tile);
}

void Outputs(const TileOutputs& tile) {
  if (tile.matrices.set == TileSet::kF4x3Quadratic) return OutputsOf<F4x3Quadratic>(tile);
  if (tile.matrices.set == TileSet::kF2x3) return OutputsOf<F2x3>(tile);
  PlainOutputs(tile);
}

#else

void Products(const TileProducts& tile) {
  for (int32_t p = 0; p < tile.positions; ++p) {
    const int8_t* weights = tile.weights + ptrdiff_t{p} * tile.channels * kBlockChannels;
    for (int32_t t = 0; t < tile.tiles; ++t) {
      const uint8_t* bytes = tile.bytes + p * tile.position_step + ptrdiff_t{t} * tile.channels;
      int32_t sums[kBlockChannels];
      for (int32_t k = 0; k < kBlockChannels; ++k) sums[k] = tile.offset[p * kBlockChannels + k];
      for (int32_t c = 0; c < tile.channels; c += kQuad) {
        const int8_t* quads = weights + c * kBlockChannels;
        for (int32_t k = 0; k < kBlockChannels; ++k) {
          for (int32_t i = 0; i < kQuad; ++i) sums[k] += bytes[c + i] * quads[k * kQuad + i];
        }
      }
      int32_t* to = tile.sums + (p * tile.tiles + t) * kBlockChannels;
      for (int32_t k = 0; k < kBlockChannels; ++k) {
        const float scaled = static_cast<float>(sums[k]) * tile.scale[p * kBlockChannels + k];
        to[k] = static_cast<int32_t>(__builtin_lrintf(scaled));
      }
    }
  }
}

void Inputs(const TileInputs& tile) { PlainInputs(tile); }
void Outputs(const TileOutputs& tile) { PlainOutputs(tile); }

#endif

}  // namespace

extern const TileLoops THINMAPS_TILE_LOOPS;
const TileLoops THINMAPS_TILE_LOOPS = {Inputs, Products, Outputs};

}  // namespace thinmaps
