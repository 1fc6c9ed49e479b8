// SPDX-License-Identifier: Apache-2.0
// Filters that are not held but made: of int8 coefficients and binary codes, block by block, in
// scratch of the arena, when a step runs. Native twin of FilterCoefficients.made in
// src/thinmaps/graph/filter_codes.py; Loops::make_filters has the inner loop.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "conv_filters.h"
#include "conv_shape.h"
#include "filters.h"

namespace thinmaps {

class FilterMaker {
 public:
  // Of the only phase of a 3x3 window. The node's integers behind the first 13 are its codes, its
  // table the shift of each output channel, its weights the coefficients (k, c, codes).
  FilterMaker(const Blueprint& blueprint, const Shape& shape, const Phase& phase);

  // Coefficients, bias with the zero point folded in, multipliers.
  const std::shared_ptr<const Filters>& held() const { return held_; }

  // Makes a block's filters at `to`, a multiple of 64, as conv_filters.h packs them.
  void Make(int32_t block, int8_t* to) const;

  // How many blocks fit the `part_count`-th part of the node's scratch, and where part 0 begins.
  int32_t MostBlocks(int32_t part_count) const {
    return static_cast<int32_t>(scratch_.slot_bytes / part_count / block_bytes_);
  }
  int8_t* Scratch(const Memory& memory, Part part) const {
    const ptrdiff_t room = MostBlocks(part.count) * block_bytes_;
    return reinterpret_cast<int8_t*>(memory.arena + scratch_.offset + part.index * room);
  }
  ptrdiff_t block_bytes() const { return block_bytes_; }

  // For instruction sets that sort quads: these are not, all are widened.
  const QuadOrder* orders() const { return orders_.data(); }

 private:
  void CheckCodes(const Blueprint& blueprint, const Shape& shape) const;
  void FindPlaces(const Phase& phase);
  std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Shape& shape) const;
  void MakeBlock(const Filters& held, int32_t block, int8_t* to) const;

  const Loops& loops_;
  int32_t quads_;  // of a group's input channels
  int32_t codes_;
  ptrdiff_t block_bytes_;
  bool has_gaps_;                        // between pieces, which stay zero
  std::array<ptrdiff_t, kTaps> places_;  // of a tap's filters in a block
  std::vector<QuadOrder> orders_;
  BufferDescription scratch_;
  std::shared_ptr<const Filters> held_;
};

}  // namespace thinmaps
