// SPDX-License-Identifier: Apache-2.0
// The table of native codecs. A kernel adds two words: its declaration and its entry.
#include "codec.h"

#include <array>

namespace thinmaps {

extern const CodecKernel kBitplane, kBlockCode, kBlockWidth, kCapped, kChannelDct, kGf2, kKlt,
    kMixedWidth, kNarrow, kRans, kRaw, kZeroBitmap;
#if defined(__x86_64__)
extern const CodecKernel kBlockCodeAvx2, kBlockWidthAvx2, kCappedAvx2, kGf2Avx2, kKltAvx2,
    kMixedWidthAvx2, kNarrowAvx2, kZeroBitmapAvx2;
extern const CodecKernel kBlockCodeAvx512, kBlockWidthAvx512, kCappedAvx512, kChannelDctAvx512,
    kGf2Avx512, kKltAvx512, kMixedWidthAvx512, kNarrowAvx512, kRansAvx512, kZeroBitmapAvx512;
#endif

std::span<const CodecKernel> CodecKernels() {
  static const std::array kKernels = {
      kBitplane,
      kBlockCode,
      kBlockWidth,
      kCapped,
      kChannelDct,
      kGf2,
      kKlt,
      kMixedWidth,
      kNarrow,
      kRans,
      kRaw,
      kZeroBitmap,
#if defined(__x86_64__)
      kBlockCodeAvx2,
      kBlockWidthAvx2,
      kCappedAvx2,
      kGf2Avx2,
      kKltAvx2,
      kMixedWidthAvx2,
      kNarrowAvx2,
      kZeroBitmapAvx2,
      kBlockCodeAvx512,
      kBlockWidthAvx512,
      kCappedAvx512,
      kChannelDctAvx512,
      kGf2Avx512,
      kKltAvx512,
      kMixedWidthAvx512,
      kNarrowAvx512,
      kRansAvx512,
      kZeroBitmapAvx512,
#endif
  };
  return kKernels;
}

const CodecKernel* FindCodec(std::string_view id) { return FindCodec(id, ChosenIsa()); }

const CodecKernel* FindCodec(std::string_view id, Isa most) {
  const CodecKernel* best = nullptr;
  for (const CodecKernel& kernel : CodecKernels()) {
    if (id != kernel.id || kernel.isa > most) continue;
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
