// SPDX-License-Identifier: Apache-2.0
// In which order AVX2 takes the quads of a piece, and how it multiplies each.
//
// vpmaddubsw adds two products of bytes in 16 bits, with half the work of widening them, but it
// saturates. It is exact for whatever bytes the map has where, in every channel of the block, the
// positive filters of each pair sum up to at most 128, and the negative ones to at least -128: 255
// * 128 is less than 2^15. Where neighbours are no such pairs, another pairing of the quad's four
// bytes may be. Quads for which none is are widened: about a fifth in trained networks.
#pragma once

#include <cstdint>

namespace thinmaps {

// How to pair the bytes x0 x1 x2 x3 of a quad: as they are; 0 with 2; 0 with 3. The order of bytes
// from the lowest one up, in a word of 32 bits.
inline constexpr int32_t kPairings = 3;
inline constexpr int32_t kOrderOfBytes[kPairings] = {0x03020100, 0x03010200, 0x02010300};

struct QuadOrder {
  uint8_t plain;       // quads that go in 16 bits with their bytes as they are
  uint8_t shorts;      // those and, behind them, quads of the other pairings
  uint8_t quads;       // those and, behind them, quads that are widened
  uint8_t way[16];     // pairing of each short quad; its filters are stored in that order
  uint8_t offset[16];  // of each quad's first byte in the piece
};

// Whether the filters of a quad, [channels][4], go in 16 bits with their bytes as they are.
bool PlainPairsFit(const int8_t* quad, int32_t channels);

// Sorts the quads of a piece, [quad][16][4].
QuadOrder SortQuads(int8_t* filters, int32_t quads);

}  // namespace thinmaps
