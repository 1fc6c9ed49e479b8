// SPDX-License-Identifier: Apache-2.0
// Before a loop over sums in registers: they stay there only where the loop is unrolled.
#pragma once

#if defined(__clang__)
#define THINMAPS_UNROLL _Pragma("unroll")
#else
#define THINMAPS_UNROLL _Pragma("GCC unroll 32")
#endif
