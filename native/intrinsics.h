// SPDX-License-Identifier: Apache-2.0
// The vector intrinsics of this processor's family: of x86 without what g++ 12 says about their
// undefined operands.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__x86_64__) && defined(__clang__)
#include <immintrin.h>
#elif defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif
