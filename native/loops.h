// SPDX-License-Identifier: Apache-2.0
// The inner loops, compiled once per instruction set from the one source loops.cc.
//
// Integer sums are exact in any order and every float result is rounded the same way, so all
// variants give the same bytes; which one runs is only a matter of time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace thinmaps {

// Filters are packed in blocks of output channels; what they are multiplied with comes in quads of
// input bytes, the last one filled up with zeros.
inline constexpr int32_t kBlockChannels = 16;
inline constexpr int32_t kQuad = 4;
inline constexpr int32_t kQuadBytes = kBlockChannels * kQuad;
inline constexpr int32_t kTaps = 9;  // of a filter that is made of codes

// byte = rne(clamp(value + before, low, high)) + after, see RULES of arithmetic in docs/format.md.
// `before` is 0 unless an odd zero point is added before rounding; low and high are whole numbers,
// so that clamping before rounding equals clamping after it.
struct Rounding {
  float before;
  float low;
  float high;
  int32_t after;
};

// One operand of an element-wise operator.
struct Operand {
  const uint8_t* bytes;
  int32_t zero_point;
  float ratio;
};

// A sum of two operands whose ratios are multiples of one power of two:
// fl(fl((a - za) * ra) + fl((b - zb) * rb)) = (a * a_steps + b * b_steps + bias) * grid, where
// nothing is rounded, as both steps are below 2^15, so that all of it has at most 24 bits.
struct GridSum {
  int32_t a_steps;
  int32_t b_steps;
  int32_t bias;
  float grid;  // at most 2^-8, so that rounded sums fit 16 bits
};

// Pixels of an output row whose windows lie in the map, or a single pixel with padding.
struct DepthwiseRow {
  const uint8_t* const* taps;  // of the first pixel
  int32_t tap_count;
  ptrdiff_t step;  // from a pixel's taps to the next one's
  int32_t pixels;
  int32_t channels;
  const int8_t* filters;
  const int32_t* bias;
  const float* multiplier;
  Rounding rounding;
  uint8_t* out;
  ptrdiff_t out_step;
};

// Filters of a block of 16 output channels, made of coefficients (filter_maker.h).
struct FilterBlock {
  const int8_t* coefficients;  // [quad of input channels][code][16][4]
  int32_t quads;
  int32_t codes;            // at most 9
  const int8_t* code;       // [code][9], -1, 0 or 1
  const uint8_t* shift;     // [16], at most 4
  const ptrdiff_t* places;  // by tap, of its first quad's filters
  int8_t* filters;
};

struct Loops {
  // out[p][c] = Rounding of fl(bias[c] + sum over t of taps[t][p * step + c] * filter[t][c]) *
  // multiplier[c]. Filters are [tap][channel], or packed for blocks of `depthwise_block` channels
  // (depthwise_loops.h) and `taps` filled up to whole groups.
  void (*depthwise)(const DepthwiseRow& row);
  int32_t depthwise_block;  // 0 for plain filters

  // out[i] = table[x[i]], 256 entries.
  void (*lookup)(const uint8_t* table, const uint8_t* x, int32_t count, uint8_t* out);

  // out[3 p + c] = tables[c][x[3 p + c]], 3 tables of 256 entries.
  void (*lookup_three)(const uint8_t* tables, const uint8_t* x, int32_t pixels, uint8_t* out);

  // out[c] = max over i < count of pixels[i][c]; at least one pixel.
  void (*largest)(const uint8_t* const* pixels, int32_t count, int32_t channels, uint8_t* out);

  // sums[c] += pixel[c] - zero_point.
  void (*accumulate)(const uint8_t* pixel, int32_t channels, int32_t zero_point, int32_t* sums);

  // out[c] = Rounding of fl(sums[c]) * multiplier.
  void (*scale)(const int32_t* sums, float multiplier, int32_t count, const Rounding& rounding,
                uint8_t* out);

  // out[i] = Rounding of fl(fl((a[i] - za) * ra) + fl((b[i] - zb) * rb)).
  void (*add)(const Operand& a, const Operand& b, int32_t count, const Rounding& rounding,
              uint8_t* out);

  // The same for a sum on a grid; `rounding.before` is 0.
  void (*add_on_grid)(const GridSum& sum, const uint8_t* a, const uint8_t* b, int32_t count,
                      const Rounding& rounding, uint8_t* out);

  // out[i] = Rounding of fl((a[i] - za) * (b[i] - zb)) * multiplier.
  void (*multiply)(const Operand& a, const Operand& b, float multiplier, int32_t count,
                   const Rounding& rounding, uint8_t* out);

  // out[i] = Rounding of x[i] / scale.
  void (*quantise)(const float* x, float scale, int32_t count, const Rounding& rounding,
                   uint8_t* out);

  // out[c] = (sum of corner[k][c] * weight[k] + 2^21) >> 22, weights of 4 corners sum to 2^22.
  void (*blend)(const uint8_t* const* corners, const int32_t* weights, int32_t channels,
                uint8_t* out);

  // filters[places[t] + quad * 64 + i] = clamp((sum + 2^(shift - 1)) >> shift, -127, 127), shift
  // that of output channel i / 4, sum that of coefficients[quad][code][i] * code[code][t].
  void (*make_filters)(const FilterBlock& block);
};

// The variant for `isa`, which must run on this processor.
const Loops& LoopsFor(Isa isa);

}  // namespace thinmaps
