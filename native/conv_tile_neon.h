// SPDX-License-Identifier: Apache-2.0
// The tile of conv_tile.h for ARM's dot products; included there.
//
// SDOT adds four products of signed bytes to a sum. Filters are signed, map bytes are not: 128 is
// taken from each, by flipping its highest bit, and 128 times the sum of the filters is in the
// bias (ConvLoops::shift). All of it is exact in 32 bits. Its speed was never measured: the tests
// run it in an emulator.
#pragma once

#include "conv_row.h"
#include "intrinsics.h"

namespace thinmaps {
namespace {

constexpr int32_t kWidePixels = 5;  // 20 registers of sums, 5 of bytes, the other ones for filters
constexpr int32_t kWidePairPixels = 5;
constexpr int32_t kTileStep = 1;
constexpr int32_t kNarrowRow = 3;
constexpr int32_t kMostBlocks = 1;
constexpr bool kSortsQuads = false;
constexpr int32_t kShift = 128;

// Four vectors hold the 16 sums of a pixel.
template <int kPixels, int kBlocks>
struct Tile {
  static constexpr int kVectors = 4;
  static constexpr int32_t kVectorBytes = 16;
  int32x4_t sum[kPixels][kVectors];

  void Clear() {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[p][v] = vdupq_n_s32(0);
    }
  }

  // Four quads of every pixel in a vector, then those that are left, one by one.
  void Multiply(const ConvRow& conv, int32_t i, const uint8_t* x, ptrdiff_t step) {
    const int8_t* filters = conv.filters + conv.pieces[i].filters;
    int32_t left = conv.pieces[i].bytes;
    int8x16_t bytes[kPixels];
    for (; left >= kVectorBytes; left -= kVectorBytes, x += kVectorBytes) {
      THINMAPS_UNROLL
      for (int p = 0; p < kPixels; ++p) bytes[p] = Shifted(vld1q_u8(x + p * step));
      AddQuad<0>(bytes, filters);
      AddQuad<1>(bytes, filters + kQuadBytes);
      AddQuad<2>(bytes, filters + 2 * kQuadBytes);
      AddQuad<3>(bytes, filters + 3 * kQuadBytes);
      filters += 4 * kQuadBytes;
    }
    for (; left > 0; left -= kQuad, x += kQuad, filters += kQuadBytes) {
      THINMAPS_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        bytes[p] = Shifted(vreinterpretq_u8_s32(vdupq_n_s32(LoadFour(x + p * step))));
      }
      AddQuad<0>(bytes, filters);
    }
  }

  static int8x16_t Shifted(uint8x16_t bytes) {
    return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(kShift)));
  }

  // Quad kLane of every pixel's bytes.
  template <int kLane>
  void AddQuad(const int8x16_t* bytes, const int8_t* filters) {
    asm volatile("" ::: "memory");  // filters are loaded here: registers are for sums
    THINMAPS_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int8x16_t filter = vld1q_s8(filters + v * kVectorBytes);
      THINMAPS_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        sum[p][v] = vdotq_laneq_s32(sum[p][v], filter, bytes[p], kLane);
      }
    }
  }

  void Store(int32_t* sums) {
    THINMAPS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      THINMAPS_UNROLL
      for (int v = 0; v < kVectors; ++v, sums += 4) vst1q_s32(sums, sum[p][v]);
    }
  }
};

}  // namespace
}  // namespace thinmaps
