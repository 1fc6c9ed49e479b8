// SPDX-License-Identifier: Apache-2.0
// The steps of a convolution by tiles whose transformed bytes are rounded: WinogradConv in
// graph/operators.py says what each of them is. winograd_scaled.cc puts them together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "loops.h"

namespace thinmaps {

inline constexpr int32_t kMostTileOutputs = 8;
inline constexpr int32_t kMostTileTaps = 8;
inline constexpr int32_t kMostTileInputs = kMostTileOutputs + kMostTileTaps - 1;
inline constexpr int32_t kMostTileProducts = 4 * kMostTileOutputs;

// Transformed bytes are stored plus this, so that they are unsigned.
inline constexpr int32_t kByteOffset = 128;

// Sets of winograd_transforms.h whose sums have no constants: vector loops add them up directly.
enum class TileSet { kAny, kF2x3, kF4x3Quadratic };

// A^T (outputs x products) and B^T (products x inputs), by rows; `set` computes the same.
struct TileMatrices {
  TileSet set;
  int32_t outputs, products, inputs;
  const int8_t* at;
  const int8_t* bt;

  int32_t positions() const { return products * products; }
};

// bytes[p * position_step + c] = v[p, c] + kByteOffset of one tile. Channels are whole blocks:
// those past the map's last are read behind its pixels and multiplied by zeros later.
struct TileInputs {
  const TileMatrices& matrices;
  const uint8_t* const* pixels;  // inputs x inputs
  int32_t channels;              // in whole blocks of kBlockChannels
  int32_t zero_point;
  const int16_t* scale;  // [position][channel], 1 to 2^15 - 1
  uint8_t* bytes;
  ptrdiff_t position_step;
};

// sums[(p * tiles + t) * kBlockChannels + k] = rne(fl(M) * scale[p][k]) of a block of outputs,
// where M = offset[p][k] + sum over c of bytes[p * position_step + t * channels + c] * weights.
struct TileProducts {
  int32_t positions, tiles, channels;
  const uint8_t* bytes;
  ptrdiff_t position_step;
  const int8_t* weights;  // [position][quad][kBlockChannels][kQuad]
  const int32_t* offset;  // [position][kBlockChannels], -kByteOffset times the sum of the weights
  const float* scale;     // [position][kBlockChannels]
  int32_t* sums;
};

// out[i][j * out_step + k] = Rounding of fl(bias[k] + A^T sums A) * multiplier[k], of one tile.
struct TileOutputs {
  const TileMatrices& matrices;
  const int32_t* sums;
  ptrdiff_t position_step;
  const int32_t* bias;
  const float* multiplier;
  Rounding rounding;
  int32_t rows, columns, channels;  // that the map has of the tile and of the block
  uint8_t* const* out;
  ptrdiff_t out_step;
};

struct TileLoops {
  void (*inputs)(const TileInputs& tile);
  void (*products)(const TileProducts& tile);
  void (*outputs)(const TileOutputs& tile);
};

// The variant for `isa`, which must run on this processor.
const TileLoops& TileLoopsFor(Isa isa);

}  // namespace thinmaps
