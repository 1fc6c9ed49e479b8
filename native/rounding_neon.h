// SPDX-License-Identifier: Apache-2.0
// How convolutions round 16 sums at a time on ARM. For files that are compiled per instruction
// set: internal linkage, intrinsics only.
#pragma once

#include "intrinsics.h"
#include "loops.h"

namespace thinmaps {
namespace {

// What turns sums into bytes, in registers while a row runs.
struct VectorRounding {
  float32x4_t low, high;
  int16x8_t after;

  explicit VectorRounding(const Rounding& rounding)
      : low(vdupq_n_f32(rounding.low)),
        high(vdupq_n_f32(rounding.high)),
        after(vdupq_n_s16(static_cast<int16_t>(rounding.after))) {}

  // rne(clamp(fl(sum) * multiplier)); an engine that runs rounds to nearest, ties to even.
  int32x4_t Whole(int32x4_t sums, float32x4_t multiplier) const {
    const float32x4_t value = vmulq_f32(vcvtq_f32_s32(sums), multiplier);
    return vcvtnq_s32_f32(vminq_f32(vmaxq_f32(value, low), high));
  }

  uint8x8_t Half(const int32x4_t* sums, const float32x4_t* multiplier) const {
    const int16x4_t front = vqmovn_s32(Whole(sums[0], multiplier[0]));
    const int16x4_t back = vqmovn_s32(Whole(sums[1], multiplier[1]));
    return vqmovun_s16(vaddq_s16(vcombine_s16(front, back), after));
  }

  // byte = Whole + after; low and high leave a byte when `after` is added.
  uint8x16_t Bytes(const int32x4_t* sums, const float32x4_t* multiplier) const {
    return vcombine_u8(Half(sums, multiplier), Half(sums + 2, multiplier + 2));
  }
};

}  // namespace
}  // namespace thinmaps
