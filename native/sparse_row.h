// SPDX-License-Identifier: Apache-2.0
// A few pixels of an output row of a convolution whose filters have many zeros in squares: 4 output
// channels by 4 input channels of one tap. Only squares that are not all zero are stored and
// multiplied (conv_sparse.cc packs them).
//
// Lanes are pixels: a vector of sums belongs to one output channel. So a row of the input is first
// laid in planes, one for every 4 channels, with the 4 bytes of neighbouring pixels side by side.
// A square then costs a load per vector of pixels, shared by its 4 output channels, and per
// channel a broadcast of 4 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "loops.h"

namespace thinmaps {

inline constexpr int32_t kSquare = 4;  // channels on either side
inline constexpr int32_t kSquareBytes = kSquare * kSquare;
inline constexpr int32_t kLanes = 16;       // pixels of a vector of sums
inline constexpr int32_t kMostVectors = 6;  // of a tile: as many sums as registers hold

// The pixels that a square is multiplied with.
struct SquarePlace {
  uint8_t row;     // under the window
  uint8_t shift;   // pixels to the right
  uint16_t plane;  // of that row
};

// 4 output channels: squares first .. stop - 1, of which those before `wide` can be multiplied in
// pairs of 16 bits without saturation (quad_order.h).
struct Quartet {
  uint32_t first, wide, stop;
  int32_t bias[kSquare];
  float multiplier[kSquare];
};
static_assert(sizeof(SquarePlace) == 4 && sizeof(Quartet) == 44);

// planes[q * plane_bytes + 4 * p + i] = row[first + p * step + 4 * q + i], zero points where that
// pixel is outside of the row. Bytes past the last channel are of no matter.
struct RowToLay {
  const uint8_t* row;   // nullptr outside of the map
  ptrdiff_t row_bytes;  // that may be read
  ptrdiff_t first;      // a pixel's place; before the row if negative
  ptrdiff_t step;
  int32_t pixels;
  int32_t channels;
  uint8_t padding;
  uint8_t* planes;
  ptrdiff_t plane_bytes;
};

// out[p * out_step + k] = Rounding of fl(bias[k] + sum over the squares of k's quartet and i < 4 of
//   rows[row][plane * plane_bytes + 4 * (p + shift) + i] * weights[square][k % 4][i]) *
// multiplier[k]. Whole vectors of pixels are read from the planes.
struct SparseTile {
  const uint8_t* const* rows;
  ptrdiff_t plane_bytes;
  int32_t pixels;  // 1 to kMostVectors * kLanes
  const Quartet* quartets;
  int32_t channels;  // outputs; the last quartet may be incomplete
  const SquarePlace* places;
  const int8_t* weights;  // [square][4 outputs][4 inputs]
  Rounding rounding;
  uint8_t* out;
  ptrdiff_t out_step;
};

struct SparseLoops {
  void (*lay)(const RowToLay& row);
  void (*tile)(const SparseTile& tile);
};

// The variant for `isa`, which must run on this processor.
const SparseLoops& SparseLoopsFor(Isa isa);

}  // namespace thinmaps
