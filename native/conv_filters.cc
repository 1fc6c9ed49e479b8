// SPDX-License-Identifier: Apache-2.0
#include "conv_filters.h"

#include <algorithm>
#include <utility>

namespace thinmaps {
namespace {

// Filters [phase][block][piece][quad][16][4], bias [phase][block][16], multipliers [block][16].
struct Packer {
  const NodeDescription& node;
  const Shape& shape;
  int32_t zero_point;  // of bytes as they are multiplied: less ConvLoops::shift
  bool sorts_quads;
  Filters& filters;

  int32_t Weight(int32_t output, const Source& source) const {
    return node
        .weights[shape.FilterIndex(output, source.channel, source.tap_row, source.tap_column)];
  }

  void PackBlock(const Phase& phase, int32_t block) {
    const int32_t first = block % shape.group_blocks() * kBlockChannels;
    const int32_t base = block / shape.group_blocks() * shape.group_outputs + first;
    const int32_t channels = std::min(kBlockChannels, shape.group_outputs - first);
    const size_t start = filters.weights.size();
    filters.weights.resize(start + static_cast<size_t>(phase.block_bytes));
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      // Sums wrap on the way; the finished sum fits.
      auto bias = static_cast<uint32_t>(PerChannel(node.bias, shape, block, k));
      const Source* source = phase.sources.data();
      for (const Piece& piece : phase.pieces) {
        int8_t* to = filters.weights.data() + start + piece.filters;
        for (int32_t i = 0; i < piece.bytes; ++i, ++source) {
          const int32_t w = k < channels ? Weight(base + k, *source) : 0;
          to[(i / kQuad * kBlockChannels + k) * kQuad + i % kQuad] = static_cast<int8_t>(w);
          bias -= static_cast<uint32_t>(zero_point * w);
        }
      }
      filters.bias.push_back(static_cast<int32_t>(bias));
    }
    if (!sorts_quads) return;
    for (const Piece& piece : phase.pieces) {
      int8_t* quads = filters.weights.data() + start + piece.filters;
      filters.orders.push_back(SortQuads(quads, WholeQuads(piece.bytes) / kQuad));
    }
  }
};

}  // namespace

Phase Cut(const Shape& shape, const std::vector<Axis::Tap>& rows,
          const std::vector<Axis::Tap>& columns, bool joins, int32_t pixel_bytes, int32_t least) {
  Phase phase;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<Source> run;
    ptrdiff_t offset = 0;
    for (size_t s = 0; s < columns.size(); ++s) {
      if (run.empty()) offset = ptrdiff_t{columns[s].offset} * pixel_bytes;
      for (int32_t c = 0; c < shape.group_inputs; ++c) {
        run.push_back({rows[r].tap, columns[s].tap, c});
      }
      const bool neighbour =
          s + 1 < columns.size() && columns[s + 1].offset == columns[s].offset + 1;
      if (joins && neighbour) continue;
      phase.Add(static_cast<int32_t>(r), offset, run, least);
      run.clear();
    }
  }
  return phase;
}

std::string LayoutOf(const Phase& phase, const ConvLoops& loops) {
  return std::to_string(phase.pieces.size()) + " pieces of " + std::to_string(phase.block_bytes) +
         (loops.sorts_quads ? ", sorted" : "") + (loops.shift != 0 ? ", shifted" : "");
}

std::shared_ptr<const Filters> PackFilters(const Blueprint& blueprint, const Shape& shape,
                                           const std::vector<Phase>& phases) {
  const ConvLoops& loops = blueprint.conv_loops;
  const std::string layout = LayoutOf(phases[0], loops);
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  size_t bytes = 0;
  for (const Phase& phase : phases) bytes += static_cast<size_t>(phase.block_bytes);
  filters->weights.reserve(static_cast<size_t>(shape.blocks()) * bytes);
  const int32_t zero_point = blueprint.input(0).zero_point - loops.shift;
  Packer packer{blueprint.node, shape, zero_point, loops.sorts_quads, *filters};
  for (const Phase& phase : phases) {
    filters->phase_orders.push_back(filters->orders.size());
    filters->phase_offset.push_back(filters->weights.size());
    for (int32_t block = 0; block < shape.blocks(); ++block) packer.PackBlock(phase, block);
  }
  for (int32_t block = 0; block < shape.blocks(); ++block) {
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      filters->multiplier.push_back(PerChannel(blueprint.node.multiplier, shape, block, k));
    }
  }
  return ShareFilters(blueprint, layout, std::move(filters));
}

}  // namespace thinmaps
