// SPDX-License-Identifier: Apache-2.0
// Tiles of a 3x3 convolution by Winograd's F(4x4,3x3) with the points 0, 1, -1, 2, -2 and infinity,
// in integers: 36 products for 16 outputs instead of 144. winograd_exact.cc says why they are those
// of the direct convolution, bit for bit.
//
// The 6x6 pixels under a tile become 36 points per input channel (B^T d B, 16 bits). Every point is
// a matrix product over the channels, of many tiles with the transformed filters, in 32 bits that
// wrap. Back come 4x4 outputs (A^T p A), 576 times too large, which an inverse and a shift undo.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "loops.h"

namespace thinmaps {

inline constexpr int32_t kTileOutputs = 4;  // rows, and columns
inline constexpr int32_t kTileInputs = 6;
inline constexpr int32_t kTilePoints = kTileInputs * kTileInputs;
inline constexpr int32_t kPointRun = 32;    // input channels are filled up to multiples of it
inline constexpr int32_t kPanelBlocks = 4;  // blocks of 16 output channels done together
inline constexpr int32_t kPair = 2;         // input channels multiplied at once

// What undoes 576 = 64 * 9 modulo 2^32: 9 * kInverse = 1, and a shift.
inline constexpr uint32_t kInverse = 954437177;
inline constexpr int32_t kScaleBits = 6;
// A point at infinity was divided by this in the filters, lest they leave 16 bits.
inline constexpr int32_t kInfinityScale = 8;

// Of a block of 16 output channels at one point: pairs of 16 x 2 filters.
constexpr ptrdiff_t BlockFilters(int32_t pairs) {
  return ptrdiff_t{pairs} * kBlockChannels * kPair;
}

// points[p * whole + c] = (B^T d B)[p] of the channel c, `whole` being the channels filled up to
// runs; those past the last one may be anything.
struct TileToTransform {
  const uint8_t* const* pixels;  // 36, row by row
  int32_t channels;
  int16_t* points;
};

// sums[t * tile_sums + k] = sum over c of points[t * tile_points + c] * filters[k / 16][c / 2][k %
// 16][c % 2] modulo 2^32, for tiles t and the 16 * blocks outputs k; blocks lie BlockFilters apart.
struct PointProduct {
  const int16_t* points;
  ptrdiff_t tile_points;
  int32_t tiles;
  const int16_t* filters;
  int32_t pairs;
  int32_t blocks;  // 1 to kPanelBlocks
  int32_t* sums;
  ptrdiff_t tile_sums;
};

// byte = Rounding of fl(low[k] + (uint32((A^T p A)[i] * kInverse + offset[k]) >> kScaleBits)) *
// multiplier[k] for those of the tile's 4x4 outputs i that exist; p = sums[p * point_sums + k].
struct TileToFinish {
  const int32_t* sums;
  ptrdiff_t point_sums;
  const int32_t* low;
  const uint32_t* offset;
  const float* multiplier;
  int32_t channels;  // 1 to kBlockChannels
  Rounding rounding;
  int32_t rows, columns;  // that exist
  uint8_t* const* out;    // by row, of the first column
  ptrdiff_t out_step;
};

struct WinogradExactLoops {
  void (*transform)(const TileToTransform& tile);
  void (*multiply)(const PointProduct& product);
  void (*finish)(const TileToFinish& tile);
};

// The variant for `isa`, which must run on this processor.
const WinogradExactLoops& WinogradExactLoopsFor(Isa isa);

}  // namespace thinmaps
