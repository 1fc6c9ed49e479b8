// SPDX-License-Identifier: Apache-2.0
// A sliding window along one axis, for convolutions, pools and transposed convolutions alike.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"

namespace thinmaps {

// The first ten integers of every window operator (graph/operators.py, Window).
struct Window {
  int32_t kernel[2];
  int32_t stride[2];
  int32_t dilation[2];
  int32_t pads[4];  // top, left, bottom, right
  static constexpr size_t kIntegers = 10;
};

// Reads and checks the window of a node: sizes that no product below can overflow.
Window ReadWindow(const Blueprint& blueprint);

// Input places under output place `o`, one axis. Output places with o % phases equal use the same
// filter taps; tap t reads input place Base(o) + offsets[o's phase][t].
//
// A convolution has one phase. A transposed one has `stride` phases: tap r takes part where
// (o + pad - r * dilation) is a multiple of the stride.
struct Axis {
  struct Tap {
    int32_t tap;     // filter row or column
    int32_t offset;  // input place relative to Base
  };
  int32_t phases = 1;
  int32_t pad = 0;
  int32_t stride = 1;  // input places per output place; 1 and unused where phases > 1
  bool transposed = false;
  std::vector<std::vector<Tap>> taps;  // by phase

  static Axis Sliding(int32_t kernel, int32_t stride, int32_t dilation, int32_t pad);
  static Axis Transposed(int32_t kernel, int32_t stride, int32_t dilation, int32_t pad);

  int32_t Phase(int32_t o) const { return transposed ? (o + pad) % phases : 0; }
  int32_t Base(int32_t o) const { return transposed ? (o + pad) / phases : o * stride - pad; }
};

}  // namespace thinmaps
