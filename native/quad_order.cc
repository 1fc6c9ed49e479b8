// SPDX-License-Identifier: Apache-2.0
#include "quad_order.h"

#include <algorithm>
#include <array>

#include "conv_row.h"

namespace thinmaps {
namespace {

// Place of byte `i` in a quad of this pairing.
int32_t Byte(int32_t way, int32_t i) { return kOrderOfBytes[way] >> 8 * i & 3; }

// Whether no sum of two products, each of any byte and its filter, leaves 16 bits.
bool Fits(int32_t a, int32_t b) {
  constexpr int32_t kLimit = 128;
  const int32_t most = std::max(a, 0) + std::max(b, 0);
  const int32_t least = std::min(a, 0) + std::min(b, 0);
  return most <= kLimit && least >= -kLimit;
}

bool Fits(const int8_t* quad, int32_t channels, int32_t way) {
  bool fits = true;
  for (int32_t k = 0; k < channels; ++k, quad += kQuad) {
    fits &= Fits(quad[Byte(way, 0)], quad[Byte(way, 1)]);
    fits &= Fits(quad[Byte(way, 2)], quad[Byte(way, 3)]);
  }
  return fits;
}

// kPairings where no pairing fits.
int32_t WayOf(const int8_t* quad) {
  int32_t way = 0;
  while (way < kPairings && !Fits(quad, kBlockChannels, way)) ++way;
  return way;
}

}  // namespace

bool PlainPairsFit(const int8_t* quad, int32_t channels) { return Fits(quad, channels, 0); }

QuadOrder SortQuads(int8_t* filters, int32_t quads) {
  std::array<int8_t, kPieceBytes * kBlockChannels> source;
  std::copy_n(filters, quads * kQuadBytes, source.begin());
  QuadOrder order{};
  for (int32_t way = 0; way <= kPairings; ++way) {
    const int32_t pairing = way % kPairings;
    for (int32_t q = 0; q < quads; ++q) {
      const int8_t* quad = source.data() + q * kQuadBytes;
      if (WayOf(quad) != way) continue;
      order.way[order.quads] = static_cast<uint8_t>(pairing);
      order.offset[order.quads] = static_cast<uint8_t>(q * kQuad);
      for (int32_t i = 0; i < kQuadBytes; ++i) {
        *filters++ = quad[i / kQuad * kQuad + Byte(pairing, i % kQuad)];
      }
      ++order.quads;
    }
    if (way == 0) order.plain = order.quads;
    if (way < kPairings) order.shorts = order.quads;
  }
  return order;
}

}  // namespace thinmaps
