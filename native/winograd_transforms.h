// SPDX-License-Identifier: Apache-2.0
// Winograd transforms of inputs, filters and products in one dimension, along strides; in two, once
// along columns and once along rows. Written by tools/winograd_header.py, which derives and
// verifies the matrices; change it there.
//
// V is a vector of floats with +, - and * and V::Broadcast(float). All inputs are read before the
// first output is written, so `out` may be `in`.
#pragma once

#include <cstddef>

namespace thinmaps {

// F(2,3) x, x-1, x+1
struct F2x3 {
  static constexpr int kOutputs = 2;
  static constexpr int kTaps = 3;
  static constexpr int kInputs = 4;
  static constexpr int kProducts = 4;

  // B^T d: 4 additions, 0 multiplications.
  template <class V>
  static void InputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V d0 = in[0 * in_stride];
    const V d1 = in[1 * in_stride];
    const V d2 = in[2 * in_stride];
    const V d3 = in[3 * in_stride];
    out[0 * out_stride] = d0 - d2;
    out[1 * out_stride] = d1 + d2;
    out[2 * out_stride] = d2 - d1;
    out[3 * out_stride] = d3 - d1;
  }

  // G g: 3 additions, 2 multiplications.
  template <class V>
  static void FilterTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c1_2 = V::Broadcast(0.5f);
    const V g0 = in[0 * in_stride];
    const V g1 = in[1 * in_stride];
    const V g2 = in[2 * in_stride];
    out[0 * out_stride] = g0;
    const V t0 = g0 + g2;
    out[1 * out_stride] = c1_2 * (g1 + t0);
    out[2 * out_stride] = c1_2 * (t0 - g1);
    out[3 * out_stride] = g2;
  }

  // A^T p: 4 additions, 0 multiplications.
  template <class V>
  static void OutputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V p0 = in[0 * in_stride];
    const V p1 = in[1 * in_stride];
    const V p2 = in[2 * in_stride];
    const V p3 = in[3 * in_stride];
    out[0 * out_stride] = p0 + p1 + p2;
    out[1 * out_stride] = p1 + p3 - p2;
  }
};

// F(4,3) x, x-3/2, x+3/2, x-2/3, x+2/3
struct F4x3Thirds {
  static constexpr int kOutputs = 4;
  static constexpr int kTaps = 3;
  static constexpr int kInputs = 6;
  static constexpr int kProducts = 6;

  // B^T d: 12 additions, 8 multiplications.
  template <class V>
  static void InputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c3_2 = V::Broadcast(1.5f);
    const V c9_4 = V::Broadcast(2.25f);
    const V c97_36 = V::Broadcast(97.0f / 36.0f);
    const V c27_8 = V::Broadcast(3.375f);
    const V d0 = in[0 * in_stride];
    const V d1 = in[1 * in_stride];
    const V d2 = in[2 * in_stride];
    const V d3 = in[3 * in_stride];
    const V d4 = in[4 * in_stride];
    const V d5 = in[5 * in_stride];
    out[0 * out_stride] = d0 + d4 - c97_36 * d2;
    const V t0 = c3_2 * d1 - c27_8 * d3;
    const V t1 = c9_4 * d4 - d2;
    out[1 * out_stride] = t1 - t0;
    out[2 * out_stride] = t0 + t1;
    const V t2 = c9_4 * d1 - d3;
    const V t3 = c27_8 * d2 - c3_2 * d4;
    out[3 * out_stride] = t2 + t3;
    out[4 * out_stride] = t3 - t2;
    out[5 * out_stride] = d1 + d5 - c97_36 * d3;
  }

  // G g: 6 additions, 8 multiplications.
  template <class V>
  static void FilterTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c32_585 = V::Broadcast(32.0f / 585.0f);
    const V c16_195 = V::Broadcast(16.0f / 195.0f);
    const V c8_65 = V::Broadcast(8.0f / 65.0f);
    const V c12_65 = V::Broadcast(12.0f / 65.0f);
    const V c18_65 = V::Broadcast(18.0f / 65.0f);
    const V c27_65 = V::Broadcast(27.0f / 65.0f);
    const V g0 = in[0 * in_stride];
    const V g1 = in[1 * in_stride];
    const V g2 = in[2 * in_stride];
    out[0 * out_stride] = g0;
    const V t0 = c32_585 * g0 + c8_65 * g2;
    out[1 * out_stride] = c16_195 * g1 + t0;
    out[2 * out_stride] = t0 - c16_195 * g1;
    const V t1 = c27_65 * g0 + c12_65 * g2;
    out[3 * out_stride] = c18_65 * g1 + t1;
    out[4 * out_stride] = t1 - c18_65 * g1;
    out[5 * out_stride] = g2;
  }

  // A^T p: 10 additions, 6 multiplications.
  template <class V>
  static void OutputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c4_9 = V::Broadcast(4.0f / 9.0f);
    const V c2_3 = V::Broadcast(2.0f / 3.0f);
    const V c3_2 = V::Broadcast(1.5f);
    const V c9_4 = V::Broadcast(2.25f);
    const V p0 = in[0 * in_stride];
    const V p1 = in[1 * in_stride];
    const V p2 = in[2 * in_stride];
    const V p3 = in[3 * in_stride];
    const V p4 = in[4 * in_stride];
    const V p5 = in[5 * in_stride];
    const V t0 = p1 + p2;
    const V t1 = p3 + p4;
    out[0 * out_stride] = p0 + t0 + t1;
    const V t2 = c3_2 * (p1 - p2);
    const V t3 = c2_3 * (p3 - p4);
    out[1 * out_stride] = t2 + t3;
    out[2 * out_stride] = c9_4 * t0 + c4_9 * t1;
    out[3 * out_stride] = p5 + c9_4 * t2 + c4_9 * t3;
  }
};

// F(4,3) x, x-1, x+1, x-2, x+2
struct F4x3Points {
  static constexpr int kOutputs = 4;
  static constexpr int kTaps = 3;
  static constexpr int kInputs = 6;
  static constexpr int kProducts = 6;

  // B^T d: 12 additions, 7 multiplications.
  template <class V>
  static void InputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c2 = V::Broadcast(2.0f);
    const V c4 = V::Broadcast(4.0f);
    const V c5 = V::Broadcast(5.0f);
    const V d0 = in[0 * in_stride];
    const V d1 = in[1 * in_stride];
    const V d2 = in[2 * in_stride];
    const V d3 = in[3 * in_stride];
    const V d4 = in[4 * in_stride];
    const V d5 = in[5 * in_stride];
    out[0 * out_stride] = c4 * d0 + d4 - c5 * d2;
    const V t0 = c4 * d2 - d4;
    const V t1 = c4 * d1 - d3;
    out[1 * out_stride] = t0 + t1;
    out[2 * out_stride] = t0 - t1;
    const V t2 = d4 - d2;
    const V t3 = c2 * (d3 - d1);
    out[3 * out_stride] = t2 + t3;
    out[4 * out_stride] = t2 - t3;
    out[5 * out_stride] = c4 * d1 + d5 - c5 * d3;
  }

  // G g: 6 additions, 7 multiplications.
  template <class V>
  static void FilterTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c1_24 = V::Broadcast(1.0f / 24.0f);
    const V c1_12 = V::Broadcast(1.0f / 12.0f);
    const V c1_6 = V::Broadcast(1.0f / 6.0f);
    const V c1_4 = V::Broadcast(0.25f);
    const V g0 = in[0 * in_stride];
    const V g1 = in[1 * in_stride];
    const V g2 = in[2 * in_stride];
    out[0 * out_stride] = c1_4 * g0;
    const V t0 = g0 + g2;
    out[1 * out_stride] = c1_6 * (g1 + t0);
    out[2 * out_stride] = c1_6 * (t0 - g1);
    const V t1 = c1_24 * g0 + c1_6 * g2;
    out[3 * out_stride] = c1_12 * g1 + t1;
    out[4 * out_stride] = t1 - c1_12 * g1;
    out[5 * out_stride] = g2;
  }

  // A^T p: 10 additions, 3 multiplications.
  template <class V>
  static void OutputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c2 = V::Broadcast(2.0f);
    const V c4 = V::Broadcast(4.0f);
    const V p0 = in[0 * in_stride];
    const V p1 = in[1 * in_stride];
    const V p2 = in[2 * in_stride];
    const V p3 = in[3 * in_stride];
    const V p4 = in[4 * in_stride];
    const V p5 = in[5 * in_stride];
    const V t0 = p1 + p2;
    const V t1 = p3 + p4;
    out[0 * out_stride] = p0 + t0 + t1;
    const V t2 = p1 - p2;
    const V t3 = c2 * (p3 - p4);
    out[1 * out_stride] = t2 + t3;
    out[2 * out_stride] = t0 + c4 * t1;
    out[3 * out_stride] = p5 + t2 + c4 * t3;
  }
};

// F(4,3) x, x-1, x+1, x^2+1
struct F4x3Quadratic {
  static constexpr int kOutputs = 4;
  static constexpr int kTaps = 3;
  static constexpr int kInputs = 6;
  static constexpr int kProducts = 7;

  // B^T d: 10 additions, 0 multiplications.
  template <class V>
  static void InputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V d0 = in[0 * in_stride];
    const V d1 = in[1 * in_stride];
    const V d2 = in[2 * in_stride];
    const V d3 = in[3 * in_stride];
    const V d4 = in[4 * in_stride];
    const V d5 = in[5 * in_stride];
    out[0 * out_stride] = d0 - d4;
    const V t0 = d1 + d3;
    const V t1 = d2 + d4;
    out[1 * out_stride] = t0 + t1;
    out[2 * out_stride] = t1 - t0;
    const V t2 = d1 - d3;
    const V t3 = d2 - d4;
    out[3 * out_stride] = t2 + t3;
    out[4 * out_stride] = t2;
    out[5 * out_stride] = t3 - t2;
    out[6 * out_stride] = d5 - d1;
  }

  // G g: 5 additions, 5 multiplications.
  template <class V>
  static void FilterTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c1_4 = V::Broadcast(0.25f);
    const V c1_2 = V::Broadcast(0.5f);
    const V g0 = in[0 * in_stride];
    const V g1 = in[1 * in_stride];
    const V g2 = in[2 * in_stride];
    out[0 * out_stride] = g0;
    const V t0 = g0 + g2;
    out[1 * out_stride] = c1_4 * (g1 + t0);
    out[2 * out_stride] = c1_4 * (t0 - g1);
    const V t1 = g2 - g0;
    out[3 * out_stride] = c1_2 * t1;
    out[4 * out_stride] = c1_2 * (g1 - t1);
    out[5 * out_stride] = c1_2 * g1;
    out[6 * out_stride] = g2;
  }

  // A^T p: 10 additions, 0 multiplications.
  template <class V>
  static void OutputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V p0 = in[0 * in_stride];
    const V p1 = in[1 * in_stride];
    const V p2 = in[2 * in_stride];
    const V p3 = in[3 * in_stride];
    const V p4 = in[4 * in_stride];
    const V p5 = in[5 * in_stride];
    const V p6 = in[6 * in_stride];
    const V t0 = p1 + p2;
    const V t1 = p3 + p4;
    out[0 * out_stride] = p0 + t0 + t1;
    const V t2 = p1 - p2;
    const V t3 = p4 + p5;
    out[1 * out_stride] = t2 + t3;
    out[2 * out_stride] = t0 - t1;
    out[3 * out_stride] = p6 + t2 - t3;
  }
};

// F(6,3) x, x-1, x+1, x^2+1, x-2, x+2
struct F6x3Quadratic {
  static constexpr int kOutputs = 6;
  static constexpr int kTaps = 3;
  static constexpr int kInputs = 8;
  static constexpr int kProducts = 9;

  // B^T d: 20 additions, 11 multiplications.
  template <class V>
  static void InputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c2 = V::Broadcast(2.0f);
    const V c3 = V::Broadcast(3.0f);
    const V c4 = V::Broadcast(4.0f);
    const V c5 = V::Broadcast(5.0f);
    const V d0 = in[0 * in_stride];
    const V d1 = in[1 * in_stride];
    const V d2 = in[2 * in_stride];
    const V d3 = in[3 * in_stride];
    const V d4 = in[4 * in_stride];
    const V d5 = in[5 * in_stride];
    const V d6 = in[6 * in_stride];
    const V d7 = in[7 * in_stride];
    const V t0 = d6 - d2;
    const V t1 = d0 - d4;
    out[0 * out_stride] = t0 + c4 * t1;
    const V t2 = d5 - c4 * d1 - c3 * d3;
    const V t3 = c4 * d2 + c3 * d4 - d6;
    out[1 * out_stride] = t3 - t2;
    out[2 * out_stride] = t2 + t3;
    const V t4 = c4 * d1 + d5 - c5 * d3;
    const V t5 = c4 * d2 + d6 - c5 * d4;
    out[3 * out_stride] = t4 + t5;
    out[4 * out_stride] = t4;
    out[5 * out_stride] = t5 - t4;
    const V t6 = c2 * (d1 - d5);
    out[6 * out_stride] = t0 - t6;
    out[7 * out_stride] = t0 + t6;
    out[8 * out_stride] = d7 + c2 * t6 - d3;
  }

  // G g: 8 additions, 10 multiplications.
  template <class V>
  static void FilterTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c1_120 = V::Broadcast(1.0f / 120.0f);
    const V c1_60 = V::Broadcast(1.0f / 60.0f);
    const V c1_30 = V::Broadcast(1.0f / 30.0f);
    const V c1_12 = V::Broadcast(1.0f / 12.0f);
    const V c1_10 = V::Broadcast(1.0f / 10.0f);
    const V c1_4 = V::Broadcast(0.25f);
    const V g0 = in[0 * in_stride];
    const V g1 = in[1 * in_stride];
    const V g2 = in[2 * in_stride];
    out[0 * out_stride] = c1_4 * g0;
    const V t0 = g0 + g2;
    out[1 * out_stride] = c1_12 * (g1 + t0);
    out[2 * out_stride] = c1_12 * (t0 - g1);
    const V t1 = g2 - g0;
    out[3 * out_stride] = c1_10 * t1;
    out[4 * out_stride] = c1_10 * (g1 - t1);
    out[5 * out_stride] = c1_10 * g1;
    const V t2 = c1_120 * g0 + c1_30 * g2;
    out[6 * out_stride] = c1_60 * g1 + t2;
    out[7 * out_stride] = t2 - c1_60 * g1;
    out[8 * out_stride] = g2;
  }

  // A^T p: 18 additions, 5 multiplications.
  template <class V>
  static void OutputTransform(const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {
    const V c1_4 = V::Broadcast(0.25f);
    const V c4 = V::Broadcast(4.0f);
    const V c8 = V::Broadcast(8.0f);
    const V c16 = V::Broadcast(16.0f);
    const V p0 = in[0 * in_stride];
    const V p1 = in[1 * in_stride];
    const V p2 = in[2 * in_stride];
    const V p3 = in[3 * in_stride];
    const V p4 = in[4 * in_stride];
    const V p5 = in[5 * in_stride];
    const V p6 = in[6 * in_stride];
    const V p7 = in[7 * in_stride];
    const V p8 = in[8 * in_stride];
    const V t0 = p6 + p7;
    const V t1 = p3 + p4;
    const V t2 = p1 + p2;
    const V t3 = t1 + t2;
    out[0 * out_stride] = p0 + t0 + t3;
    const V t4 = c8 * (p6 - p7);
    const V t5 = p4 + p5;
    const V t6 = p1 - p2;
    const V t7 = t5 + t6;
    out[1 * out_stride] = c1_4 * t4 + t7;
    out[2 * out_stride] = t2 + c4 * t0 - t1;
    out[3 * out_stride] = t6 + t4 - t5;
    out[4 * out_stride] = c16 * t0 + t3;
    out[5 * out_stride] = p8 + c4 * t4 + t7;
  }
};

}  // namespace thinmaps
