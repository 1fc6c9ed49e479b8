// SPDX-License-Identifier: Apache-2.0
#include "winograd.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "winograd_transforms.h"

namespace thinmaps {

extern const WinogradLoops kPortableWinogradLoops;
#if defined(__x86_64__)
extern const WinogradLoops kAvx2WinogradLoops;
extern const WinogradLoops kAvx512WinogradLoops;
#endif

namespace {

constexpr int32_t kTaps = 3;
constexpr int64_t kBlockBytes = 512 << 10;  // of V and M, beside the filters of a panel
constexpr int32_t kLeastRows = 3;           // of tiles that are multiplied together
constexpr int32_t kMostRows = 16;

// One float64 in the place of a vector.
struct Scalar {
  double value;

  static Scalar Broadcast(float x) { return {static_cast<double>(x)}; }
  friend Scalar operator+(Scalar a, Scalar b) { return {a.value + b.value}; }
  friend Scalar operator-(Scalar a, Scalar b) { return {a.value - b.value}; }
  friend Scalar operator*(Scalar a, Scalar b) { return {a.value * b.value}; }
};

// U = G g G^T of one filter; point (i, j) goes to points[(i * products + j) * step].
template <class F>
void TransformFilter(const float* taps, float* points, ptrdiff_t step) {
  std::array<Scalar, F::kProducts * kTaps> half;
  for (int32_t j = 0; j < kTaps; ++j) {
    std::array<Scalar, kTaps> column;
    for (size_t i = 0; i < kTaps; ++i) column[i] = {taps[i * kTaps + static_cast<size_t>(j)]};
    F::FilterTransform(column.data(), 1, half.data() + j, kTaps);
  }
  for (int32_t i = 0; i < F::kProducts; ++i) {
    std::array<Scalar, F::kProducts> row;
    F::FilterTransform(half.data() + i * kTaps, 1, row.data(), 1);
    for (const Scalar& point : row) {
      *points = static_cast<float>(point.value);
      points += step;
    }
  }
}

struct Algorithm {
  WinogradSizes sizes;
  void (*transform_filter)(const float* taps, float* points, ptrdiff_t step);
};

template <class F>
constexpr Algorithm AlgorithmOf(const char* name) {
  static_assert(F::kTaps == kTaps);
  return {{name, F::kOutputs, F::kInputs, F::kProducts}, TransformFilter<F>};
}

constexpr std::array<Algorithm, kWinogradAlgorithms> kAlgorithms = {
    AlgorithmOf<F2x3>("F2x3"), AlgorithmOf<F4x3Thirds>("F4x3Thirds"),
    AlgorithmOf<F4x3Points>("F4x3Points"), AlgorithmOf<F4x3Quadratic>("F4x3Quadratic"),
    AlgorithmOf<F6x3Quadratic>("F6x3Quadratic")};

constexpr auto kSizes = [] {
  std::array<WinogradSizes, kWinogradAlgorithms> sizes;
  std::transform(kAlgorithms.begin(), kAlgorithms.end(), sizes.begin(),
                 [](const Algorithm& algorithm) { return algorithm.sizes; });
  return sizes;
}();

int64_t Points(int32_t algorithm) {
  const int64_t products = kSizes[static_cast<size_t>(algorithm)].products;
  return products * products;
}

int64_t RoundedUp(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Channels of a panel, at most.
int64_t PanelWidth(const WinogradLoops& loops, int32_t outputs) {
  return std::min<int64_t>(loops.panel_vectors * loops.lanes, RoundedUp(outputs, loops.lanes));
}

}  // namespace

std::span<const WinogradSizes> WinogradAlgorithms() { return kSizes; }

const WinogradLoops& WinogradLoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512WinogradLoops;
  if (isa == Isa::kAvx2) return kAvx2WinogradLoops;
#endif
  (void)isa;
  return kPortableWinogradLoops;
}

int64_t WinogradFilterFloats(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs) {
  return Points(algorithm) * inputs * RoundedUp(outputs, WinogradLoopsFor(isa).lanes);
}

void PackWinogradFilters(int32_t algorithm, Isa isa, const float* weights, int32_t inputs,
                         int32_t outputs, float* packed) {
  const WinogradLoops& loops = WinogradLoopsFor(isa);
  std::fill_n(packed, WinogradFilterFloats(algorithm, isa, inputs, outputs), 0.0f);
  const auto transform = kAlgorithms[static_cast<size_t>(algorithm)].transform_filter;
  const int64_t panel_width = int64_t{loops.panel_vectors} * loops.lanes;
  for (int64_t k = 0; k < outputs; ++k) {
    const int64_t first = k / panel_width * panel_width;
    const int64_t width = std::min(panel_width, RoundedUp(outputs - first, loops.lanes));
    float* panel = packed + Points(algorithm) * inputs * first;
    for (int64_t c = 0; c < inputs; ++c) {
      transform(weights + (k * inputs + c) * kTaps * kTaps, panel + c * width + (k - first),
                inputs * width);
    }
  }
}

int32_t WinogradBlockTiles(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs) {
  const WinogradLoops& loops = WinogradLoopsFor(isa);
  const int64_t tile_floats = RoundedUp(inputs, loops.lanes) + PanelWidth(loops, outputs);
  const auto tile_bytes = Points(algorithm) * tile_floats * static_cast<int64_t>(sizeof(float));
  const int64_t rows = kBlockBytes / tile_bytes / loops.tile_rows;
  return static_cast<int32_t>(std::clamp<int64_t>(rows, kLeastRows, kMostRows)) * loops.tile_rows;
}

int64_t WinogradScratchFloats(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs,
                              int32_t block_tiles) {
  const WinogradLoops& loops = WinogradLoopsFor(isa);
  return Points(algorithm) * (WinogradPointStep(block_tiles, RoundedUp(inputs, loops.lanes)) +
                              WinogradPointStep(block_tiles, PanelWidth(loops, outputs)));
}

}  // namespace thinmaps
