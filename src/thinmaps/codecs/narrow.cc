// SPDX-License-Identifier: Apache-2.0
// Native twin of narrow.py, which specifies the payload and the arithmetic: portable and AVX2.
#include "narrow.h"

#if defined(__x86_64__)
#define THINMAPS_AVX2 [[gnu::flatten, gnu::target("avx2,bmi2")]]
#endif

namespace thinmaps {
namespace {

using namespace narrow;

#if defined(__x86_64__)

// The same loops, inlined and vectorised anew.
THINMAPS_AVX2 Status EncodeAvx2(const CodecSpec& spec, const ConstRows& rows,
                                std::span<uint8_t> payload, size_t* written) {
  return Encode(spec, rows, payload, written);
}
THINMAPS_AVX2 Status DecodeAvx2(const CodecSpec& spec, std::span<const uint8_t> payload,
                                int32_t column, int32_t columns, const MutableRows& rows) {
  return Decode(spec, payload, column, columns, rows);
}

#endif

}  // namespace

extern const CodecKernel kNarrow{"narrow", Isa::kPortable, Encode, Decode};
#if defined(__x86_64__)
extern const CodecKernel kNarrowAvx2{"narrow", Isa::kAvx2, EncodeAvx2, DecodeAvx2};
#endif

}  // namespace thinmaps
