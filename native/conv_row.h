// SPDX-License-Identifier: Apache-2.0
// One output row of a convolution, or a few narrow ones: the unit of work of the inner loops in
// conv_row.cc.
//
// A filter is cut into pieces: up to 64 consecutive bytes of one input row under the window. Where
// pixels lie without gaps, neighbouring columns join in a piece, so that a first layer of three
// channels fills its vectors as well as any other. Pixels are read where they lie; only tiles at
// a border are copied to the stack first, with the padding around them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "loops.h"
#include "quad_order.h"

namespace thinmaps {

inline constexpr int32_t kPieceBytes = 64;

struct Piece {
  int32_t row;        // which row under the window
  int32_t bytes;      // 1 to kPieceBytes
  ptrdiff_t offset;   // of its first byte from the place of the window's pixel
  ptrdiff_t filters;  // of its filters in those of a block
};

struct ConvRow {
  const uint8_t* const* rows;  // [output row][window row]; nullptr outside of the map
  int32_t window_rows;
  ptrdiff_t row_bytes;     // that may be read from each
  const uint8_t* padding;  // kPieceBytes zero points
  ptrdiff_t first;         // the first output pixel's place in a row; before it if negative
  ptrdiff_t step;          // from an output pixel's place to the next one's
  int32_t pixels;          // of an output row
  int32_t out_rows;

  const Piece* pieces;
  int32_t piece_count;
  int32_t piece_bytes;      // of the longest piece, in whole quads
  int32_t blocks;           // 1 to ConvLoops::blocks
  const int8_t* filters;    // of the first block: [piece][quad][kBlockChannels][kQuad]
  ptrdiff_t block_filters;  // from a block's filters to the next one's
  const QuadOrder* orders;  // of the first block's pieces, where ConvLoops::sorts_quads
  bool far_filters;         // too many to be in the cache still: worth fetching ahead

  const int32_t* bias;
  const float* multiplier;
  int32_t channels;  // outputs, the last block may be incomplete
  Rounding rounding;
  bool is_float;        // out = fl(sum) * multiplier in float32, without rounding
  uint8_t* const* out;  // by output row, of the first pixel
  ptrdiff_t out_step;
};

// out[r][p][k] = Rounding of fl(bias[k] + sum over pieces and bytes i of
//   rows[r][row][first + p * step + offset + i] * filters[k][piece][i]) * multiplier[k];
// bytes outside of a row are zero points. Filters start at a multiple of 64 bytes. Where `shift` is
// not 0 it is taken from each of those bytes.
struct ConvLoops {
  void (*start)(int32_t piece_bytes);  // around the rows of a step: the processor's state
  void (*row)(const ConvRow& row);
  void (*stop)();
  int32_t blocks;     // that a row can do at once
  int32_t narrow;     // rows of so few pixels are worth being done together
  bool sorts_quads;   // a row's blocks need a QuadOrder for every piece
  bool equal_pieces;  // every piece is filled up with zeros to the longest
  int32_t shift;      // is taken from bytes before they are multiplied; bias makes up for it
};

// The variant for `isa`, which must run on this processor.
const ConvLoops& ConvLoopsFor(Isa isa);

}  // namespace thinmaps
