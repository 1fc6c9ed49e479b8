// SPDX-License-Identifier: Apache-2.0
// The loops of Winograd convolutions, compiled once per instruction set from winograd_loops.cc.
//
// Sums are in float32: with AVX2 and AVX-512 products are added by fused multiply-adds, elsewhere
// they are rounded first, so results differ between instruction sets in their last bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace thinmaps {

// A convolution of a batch, maps [picture][row][column][channel], contiguous.
struct WinogradConv {
  int32_t pictures;
  int32_t height;
  int32_t width;
  int32_t inputs;   // channels
  int32_t outputs;  // channels
  int32_t pad_top;
  int32_t pad_left;
  int32_t out_height;
  int32_t out_width;
  const float* x;
  const float* filters;  // as PackWinogradFilters left them
  const float* bias;     // of each output channel, or null
  bool relu;
  float* y;
  int32_t block_tiles;  // that are transformed, multiplied and transformed back together
  float* scratch;       // WinogradScratchFloats of them
};

// Sizes of an algorithm in one dimension: `outputs` of `inputs` by `products` multiplications.
struct WinogradSizes {
  const char* name;
  int32_t outputs;
  int32_t inputs;
  int32_t products;
};

inline constexpr int32_t kWinogradAlgorithms = 5;

struct WinogradLoops {
  int32_t lanes;          // floats of a vector
  int32_t panel_vectors;  // of output channels that are multiplied together, at most
  int32_t tile_rows;      // tiles that are multiplied together
  void (*run[kWinogradAlgorithms])(const WinogradConv& conv);
};

// The variant for `isa`, which must run on this processor.
const WinogradLoops& WinogradLoopsFor(Isa isa);

// Floats from a transform point's matrix of `rows` by `columns` to the next one's: an odd number
// of cache lines, so that the points of a tile do not compete for one set of the cache.
constexpr ptrdiff_t WinogradPointStep(ptrdiff_t rows, ptrdiff_t columns) {
  constexpr ptrdiff_t kLineFloats = 16;
  return ((rows * columns + kLineFloats - 1) / kLineFloats | 1) * kLineFloats;
}

}  // namespace thinmaps
