// SPDX-License-Identifier: Apache-2.0
#include "window.h"

namespace thinmaps {

Window ReadWindow(const Blueprint& blueprint) {
  // Places stay far inside 32 bits: maps are at most 2^20 places tall or wide (see model.cc).
  constexpr int32_t kLargest = 1 << 10;
  const auto& integers = blueprint.node.integers;
  blueprint.Need(integers.size() >= Window::kIntegers, "a window of ten integers");
  Window window{};
  for (size_t axis = 0; axis < 2; ++axis) {
    window.kernel[axis] = integers[axis];
    window.stride[axis] = integers[2 + axis];
    window.dilation[axis] = integers[4 + axis];
    window.pads[axis] = integers[6 + axis];
    window.pads[2 + axis] = integers[8 + axis];
    for (size_t field = 0; field < 6; field += 2) {
      const int32_t value = integers[field + axis];
      blueprint.Need(value >= 1 && value <= kLargest,
                     "kernel, stride and dilation of 1 to 1024, got " + std::to_string(value));
    }
    for (const int32_t pad : {window.pads[axis], window.pads[2 + axis]}) {
      blueprint.Need(pad >= 0 && pad <= kLargest * kLargest,
                     "pads of 0 to 2^20, got " + std::to_string(pad));
    }
  }
  return window;
}

Axis Axis::Sliding(int32_t kernel, int32_t stride, int32_t dilation, int32_t pad) {
  Axis axis;
  axis.pad = pad;
  axis.stride = stride;
  axis.taps.resize(1);
  for (int32_t tap = 0; tap < kernel; ++tap) axis.taps[0].push_back({tap, tap * dilation});
  return axis;
}

Axis Axis::Transposed(int32_t kernel, int32_t stride, int32_t dilation, int32_t pad) {
  Axis axis;
  axis.phases = stride;
  axis.pad = pad;
  axis.transposed = true;
  axis.taps.resize(static_cast<size_t>(stride));
  for (int32_t tap = 0; tap < kernel; ++tap) {
    const int32_t phase = tap * dilation % stride;
    axis.taps[static_cast<size_t>(phase)].push_back({tap, (phase - tap * dilation) / stride});
  }
  return axis;
}

}  // namespace thinmaps
