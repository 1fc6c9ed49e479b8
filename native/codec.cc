// SPDX-License-Identifier: Apache-2.0
// The table of native codecs. A codec adds two lines: its declaration and its entry.
#include "codec.h"

#include <array>

namespace thinmaps {

std::span<const CodecKernel> CodecKernels() {
  static constexpr std::array<CodecKernel, 0> kKernels = {};
  return kKernels;
}

const CodecKernel* FindCodec(std::string_view id) {
  for (const CodecKernel& kernel : CodecKernels()) {
    if (id == kernel.id) return &kernel;
  }
  return nullptr;
}

}  // namespace thinmaps
