// SPDX-License-Identifier: Apache-2.0
// How the filters of a convolution are cut into pieces and packed, for the loops of conv_row.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conv_row.h"
#include "conv_shape.h"
#include "filters.h"

namespace thinmaps {

inline int32_t WholeQuads(int32_t bytes) { return (bytes + kQuad - 1) / kQuad * kQuad; }

// One filter value: of which tap and input channel.
struct Source {
  int32_t tap_row, tap_column, channel;
};

// The pieces of one phase, and where each byte of a piece comes from.
struct Phase {
  std::vector<Piece> pieces;
  std::vector<Source> sources;  // of all pieces, byte after byte
  ptrdiff_t block_bytes = 0;    // of one block's filters

  // Appends a run of bytes in pieces; filters of a piece are filled up to at least `least` bytes.
  void Add(int32_t row, ptrdiff_t offset, const std::vector<Source>& run, int32_t least) {
    for (size_t first = 0; first < run.size(); first += kPieceBytes) {
      const size_t count = std::min(run.size() - first, size_t{kPieceBytes});
      const auto bytes = static_cast<int32_t>(count);
      pieces.push_back({row, bytes, offset + static_cast<ptrdiff_t>(first), block_bytes});
      const auto at = run.begin() + static_cast<ptrdiff_t>(first);
      sources.insert(sources.end(), at, at + bytes);
      const int32_t filled = std::max(least, WholeQuads(bytes));
      block_bytes += filled * kBlockChannels;
    }
  }
};

// The pieces of a window's rows and columns; those of each piece take at least `least` bytes.
// Columns of a window join in one run of bytes where pixels lie without gaps.
Phase Cut(const Shape& shape, const std::vector<Axis::Tap>& rows,
          const std::vector<Axis::Tap>& columns, bool joins, int32_t pixel_bytes, int32_t least);

// A value per output channel of a block, 0 for channels that it lacks.
template <typename T>
T PerChannel(const std::vector<T>& values, const Shape& shape, int32_t block, int32_t k) {
  const int32_t in_group = block % shape.group_blocks() * kBlockChannels + k;
  const int32_t group = block / shape.group_blocks();
  if (in_group >= shape.group_outputs) return T{0};
  return values[static_cast<size_t>(group * shape.group_outputs + in_group)];
}

// The filters of a node, all packed; bias has the input's zero point folded in.
std::shared_ptr<const Filters> PackFilters(const Blueprint& blueprint, const Shape& shape,
                                           const std::vector<Phase>& phases);

// Layouts differ between instruction sets, and for maps with gaps between pixels.
std::string LayoutOf(const Phase& phase, const ConvLoops& loops);

}  // namespace thinmaps
