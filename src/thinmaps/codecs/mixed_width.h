// SPDX-License-Identifier: Apache-2.0
// The loops of mixed_width.cc that take rows of any kind, for mixed_width_avx512.cc.
#pragma once

#include "codec.h"

namespace thinmaps::mixed_width {

#if defined(__x86_64__)
Status EncodeRunsAvx512(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
                        size_t* written);
Status DecodeRunsAvx512(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
                        int32_t columns, const MutableRows& rows);
#endif

}  // namespace thinmaps::mixed_width
