// SPDX-License-Identifier: Apache-2.0
// The table of native codecs. A codec adds two lines: its declaration and its entry.
#include "codec.h"

#include <array>

namespace thinmaps {

#define THINMAPS_CODEC(Name)                                                                     \
  Status Encode##Name(const CodecSpec&, const ConstRows&, std::span<uint8_t>, size_t*);          \
  Status Decode##Name(const CodecSpec&, std::span<const uint8_t>, int32_t, int32_t,              \
                      const MutableRows&)

THINMAPS_CODEC(Narrow);
THINMAPS_CODEC(Raw);
THINMAPS_CODEC(ZeroBitmap);

std::span<const CodecKernel> CodecKernels() {
  static constexpr std::array<CodecKernel, 3> kKernels = {{
      {"narrow", Isa::kPortable, EncodeNarrow, DecodeNarrow},
      {"raw", Isa::kPortable, EncodeRaw, DecodeRaw},
      {"zero_bitmap", Isa::kPortable, EncodeZeroBitmap, DecodeZeroBitmap},
  }};
  return kKernels;
}

const CodecKernel* FindCodec(std::string_view id) {
  const CodecKernel* best = nullptr;
  for (const CodecKernel& kernel : CodecKernels()) {
    if (id != kernel.id || kernel.isa > ChosenIsa()) continue;
    if (best == nullptr || kernel.isa > best->isa) best = &kernel;
  }
  return best;
}

const CodecKernel* FindCodec(std::string_view id, std::string_view isa) {
  for (const CodecKernel& kernel : CodecKernels()) {
    if (id == kernel.id && isa == NameOf(kernel.isa) && Runs(kernel.isa)) return &kernel;
  }
  return nullptr;
}

}  // namespace thinmaps
