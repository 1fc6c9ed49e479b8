// SPDX-License-Identifier: Apache-2.0
// The inner loops of scaled_tile.h, compiled once per instruction set: the build defines
// THINMAPS_TILE_LOOPS, the name of the table.
//
// Every bound is proved when the kernel is made: transformed inputs fit 16 bits with all sums on
// the way, products and outputs 32. Sums of integers are exact in any order.
#include "scaled_tile.h"

#include "rounding.h"

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

void Inputs(const TileInputs& tile) {
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

void Outputs(const TileOutputs& tile) {
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

}  // namespace

extern const TileLoops THINMAPS_TILE_LOOPS;
const TileLoops THINMAPS_TILE_LOOPS = {Inputs, Products, Outputs};

}  // namespace thinmaps
