// SPDX-License-Identifier: Apache-2.0
// Four bytes of maps or filters as one word, from any address. Internal linkage: the files that
// include it are compiled per instruction set.
#pragma once

#include <cstdint>

namespace thinmaps {
namespace {

[[maybe_unused]] inline int32_t LoadFour(const void* bytes) {
  int32_t four;
  __builtin_memcpy(&four, bytes, sizeof four);
  return four;
}

}  // namespace
}  // namespace thinmaps
