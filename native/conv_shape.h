// SPDX-License-Identifier: Apache-2.0
// What the kernels of a convolution agree on, whichever one a node gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernel.h"
#include "window.h"

namespace thinmaps {

struct Shape {
  int32_t groups, group_inputs, group_outputs, kernel_rows, kernel_columns;

  int32_t group_blocks() const { return (group_outputs + kBlockChannels - 1) / kBlockChannels; }
  int32_t blocks() const { return groups * group_blocks(); }
  int32_t taps() const { return kernel_rows * kernel_columns; }

  // Of a filter value in `k c r s`.
  size_t FilterIndex(int32_t output, int32_t channel, int32_t row, int32_t column) const {
    const auto index = [](int32_t i) { return static_cast<size_t>(i); };
    const size_t filter = index(output) * index(group_inputs) + index(channel);
    return (filter * index(kernel_rows) + index(row)) * index(kernel_columns) + index(column);
  }
};

// The part of a step that a thread does: some pixels of all blocks, or all of some blocks.
struct ConvShare {
  Range blocks;
  Area area;
};

ConvShare ShareConv(const Shape& shape, int32_t width, Rows rows, Part part);

// A convolution that skips zero squares of its filters, with scratch in the arena: the buffer that
// the node names as its state.
std::unique_ptr<const Kernel> MakeSparseConv(const Blueprint& blueprint, const Shape& shape,
                                             const Window& window, const Rounding& rounding);

// One by Winograd's algorithm, with scratch in the same way, but for steps that need fewer rows of
// a tile than the node's `winograd_rows`: `direct` does these, if there is one.
std::unique_ptr<const Kernel> MakeWinogradConv(const Blueprint& blueprint, const Shape& shape,
                                               const Window& window, const Rounding& rounding,
                                               std::unique_ptr<const Kernel> direct);

}  // namespace thinmaps
