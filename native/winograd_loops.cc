// SPDX-License-Identifier: Apache-2.0
// The loops of winograd_loops.h. The build defines THINMAPS_WINOGRAD_LOOPS, the name of the table,
// and passes the target flags; nothing but plain loops and intrinsics here, as in loops.cc.
//
// Blocks of tiles pass through three steps, all of them in scratch that fits the L2 cache:
//   V[point][tile][c] = B^T d B of every tile's window, along c in vectors;
//   M[point][tile][k] = V[point] U[point], a matrix product per point, for a panel of k at a time;
//   Y = A^T M A of every tile, + bias, Relu.
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, arXiv:1509.09308; the
// order along blocks and panels is ours.
#include "winograd_loops.h"

#include "unroll.h"
#include "winograd_transforms.h"
#include "winograd_vector.h"

namespace thinmaps {
namespace {

constexpr int32_t kTileRows = 6;
// Input channels that are added up before they join the sum of those before them: rounding errors
// grow with the longer of both sums, and the filters of a run stay in the L1 cache for all tiles.
constexpr int32_t kRunInputs = 32;

inline int32_t Least(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t Most(int32_t a, int32_t b) { return a > b ? a : b; }

// A tile's first output.
struct Place {
  int32_t picture;
  int32_t row;
  int32_t column;
};

template <class F>
Place PlaceOf(const WinogradConv& conv, int32_t tile) {
  const int32_t across = (conv.out_width + F::kOutputs - 1) / F::kOutputs;
  const int32_t down = (conv.out_height + F::kOutputs - 1) / F::kOutputs;
  const int32_t line = tile / across;
  return {line / down, line % down * F::kOutputs, tile % across * F::kOutputs};
}

// Rows or columns of a window of `inputs` that begins at `first` and lie in 0 .. extent - 1.
struct Inside {
  int32_t begin;
  int32_t end;

  Inside(int32_t first, int32_t inputs, int32_t extent)
      : begin(Most(0, -first)), end(Most(begin, Least(inputs, extent - first))) {}
  int32_t Extent() const { return end - begin; }
  bool Has(int32_t i) const { return begin <= i && i < end; }
};

// A tile's window on the map.
struct Window {
  Inside rows;
  Inside columns;
  const float* map;  // of the picture
  ptrdiff_t first;   // from the map's first pixel to the window's, which may lie outside
  ptrdiff_t row_step;
  ptrdiff_t column_step;

  const float* Pixel(int32_t i, int32_t j) const {
    return map + (first + i * row_step + j * column_step);
  }
};

// One vector of channels of a tile's window to V. Where the window leaves the map it reads zeros;
// kWhole says that it does not, and that all channels of the vector exist.
template <class F, bool kWhole>
void TransformWindow(const Window& window, int32_t c, int32_t channels, float* v,
                     ptrdiff_t point_step) {
  Vec half[F::kProducts * F::kInputs];
  for (int32_t j = 0; j < F::kInputs; ++j) {
    Vec column[F::kInputs];
    THINMAPS_UNROLL
    for (int32_t i = 0; i < F::kInputs; ++i) {
      if constexpr (kWhole) {
        column[i] = Vec::Load(window.Pixel(i, j) + c);
      } else {
        const bool inside = window.rows.Has(i) && window.columns.Has(j);
        column[i] =
            inside ? Vec::LoadFirst(window.Pixel(i, j) + c, channels) : Vec::Broadcast(0.0f);
      }
    }
    F::InputTransform(column, 1, half + j, F::kInputs);
  }
  for (int32_t i = 0; i < F::kProducts; ++i) {
    Vec row[F::kProducts];
    F::InputTransform(half + i * F::kInputs, 1, row, 1);
    THINMAPS_UNROLL
    for (int32_t j = 0; j < F::kProducts; ++j) {
      row[j].Store(v + (i * F::kProducts + j) * point_step);
    }
  }
}

// All channels of one tile; those that fill up the last vector become zeros.
template <class F>
void TransformInput(const WinogradConv& conv, int32_t tile, float* v, ptrdiff_t point_step) {
  const Place place = PlaceOf<F>(conv, tile);
  const int32_t top = place.row - conv.pad_top;
  const int32_t left = place.column - conv.pad_left;
  const ptrdiff_t column_step = conv.inputs;
  const ptrdiff_t row_step = column_step * conv.width;
  const Window window = {Inside(top, F::kInputs, conv.height),
                         Inside(left, F::kInputs, conv.width),
                         conv.x + ptrdiff_t{place.picture} * conv.height * row_step,
                         top * row_step + left * column_step,
                         row_step,
                         column_step};
  const bool inside = window.rows.Extent() == F::kInputs && window.columns.Extent() == F::kInputs;
  for (int32_t c = 0; c < conv.inputs; c += kLanes) {
    const int32_t channels = Least(kLanes, conv.inputs - c);
    if (inside && channels == kLanes) {
      TransformWindow<F, true>(window, c, channels, v + c, point_step);
    } else {
      TransformWindow<F, false>(window, c, channels, v + c, point_step);
    }
  }
}

// m[r][k] = (add ? m[r][k] : 0) + sum over c of v[r][c] * u[c][k], for kRows tiles and kVectors
// vectors of k.
template <int kRows, int kVectors>
void MultiplyRows(const float* v, ptrdiff_t v_step, const float* u, int32_t inputs, bool add,
                  float* m) {
  Vec sums[kRows][kVectors];
  THINMAPS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    THINMAPS_UNROLL
    for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::Broadcast(0.0f);
  }
  for (int32_t c = 0; c < inputs; ++c, u += kVectors * kLanes) {
    Vec filters[kVectors];
    THINMAPS_UNROLL
    for (int k = 0; k < kVectors; ++k) filters[k] = Vec::Load(u + k * kLanes);
    THINMAPS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec value = Vec::Broadcast(v[r * v_step + c]);
      THINMAPS_UNROLL
      for (int k = 0; k < kVectors; ++k) sums[r][k].AddProduct(value, filters[k]);
    }
  }
  THINMAPS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    THINMAPS_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      float* made = m + (r * kVectors + k) * kLanes;
      (add ? sums[r][k] + Vec::Load(made) : sums[r][k]).Store(made);
    }
  }
}

using Multiply = void (*)(const float* v, ptrdiff_t v_step, const float* u, int32_t inputs,
                          bool add, float* m);

template <int kVectors>
constexpr Multiply kMultiplyRows[kTileRows] = {
    MultiplyRows<1, kVectors>, MultiplyRows<2, kVectors>, MultiplyRows<3, kVectors>,
    MultiplyRows<4, kVectors>, MultiplyRows<5, kVectors>, MultiplyRows<6, kVectors>};

// By vectors of a panel - 1.
#if defined(__AVX512F__)
constexpr const Multiply* kMultiply[kPanelVectors] = {kMultiplyRows<1>, kMultiplyRows<2>,
                                                      kMultiplyRows<3>, kMultiplyRows<4>};
#else
constexpr const Multiply* kMultiply[kPanelVectors] = {kMultiplyRows<1>, kMultiplyRows<2>};
#endif

// Output channels first .. first + channels - 1, in `vectors` vectors.
struct Panel {
  int32_t first;
  int32_t vectors;
};

// The outputs of one tile and one vector of channels, as far as they exist.
template <class F>
void TransformOutput(const WinogradConv& conv, const Place& place, int32_t k, const float* m,
                     ptrdiff_t point_step) {
  const int32_t channels = Least(kLanes, conv.outputs - k);
  const Vec bias =
      conv.bias == nullptr ? Vec::Broadcast(0.0f) : Vec::LoadFirst(conv.bias + k, channels);
  Vec half[F::kOutputs * F::kProducts];
  for (int32_t j = 0; j < F::kProducts; ++j) {
    Vec column[F::kProducts];
    THINMAPS_UNROLL
    for (int32_t i = 0; i < F::kProducts; ++i) {
      column[i] = Vec::Load(m + (i * F::kProducts + j) * point_step);
    }
    F::OutputTransform(column, 1, half + j, F::kProducts);
  }
  const int32_t rows = Least(F::kOutputs, conv.out_height - place.row);
  const int32_t columns = Least(F::kOutputs, conv.out_width - place.column);
  for (int32_t i = 0; i < rows; ++i) {
    Vec row[F::kOutputs];
    F::OutputTransform(half + i * F::kProducts, 1, row, 1);
    const ptrdiff_t line = ptrdiff_t{place.picture} * conv.out_height + place.row + i;
    float* y = conv.y + (line * conv.out_width + place.column) * conv.outputs + k;
    THINMAPS_UNROLL
    for (int32_t j = 0; j < F::kOutputs; ++j) {
      if (j == columns) break;
      Vec sum = row[j] + bias;
      if (conv.relu) sum = sum.Positive();
      if (channels == kLanes) {
        sum.Store(y + ptrdiff_t{j} * conv.outputs);
      } else {
        sum.StoreFirst(y + ptrdiff_t{j} * conv.outputs, channels);
      }
    }
  }
}

// Products and outputs of a panel for the tiles of a block, whose V is there.
template <class F>
void RunPanel(const WinogradConv& conv, int32_t first_tile, int32_t tiles, Panel panel,
              const float* v, ptrdiff_t v_step, float* m) {
  constexpr int32_t kPoints = F::kProducts * F::kProducts;
  const ptrdiff_t padded = (conv.inputs + kLanes - 1) / kLanes * kLanes;
  const ptrdiff_t width = panel.vectors * kLanes;
  const ptrdiff_t m_step = WinogradPointStep(tiles, width);
  const float* u = conv.filters + ptrdiff_t{kPoints} * conv.inputs * panel.first;
  const Multiply* multiply = kMultiply[panel.vectors - 1];
  for (int32_t point = 0; point < kPoints; ++point) {
    for (int32_t c = 0; c < conv.inputs; c += kRunInputs) {
      const int32_t inputs = Least(kRunInputs, conv.inputs - c);
      for (int32_t tile = 0; tile < tiles; tile += kTileRows) {
        const int32_t rows = Least(kTileRows, tiles - tile);
        multiply[rows - 1](v + point * v_step + tile * padded + c, padded, u, inputs, c != 0,
                           m + point * m_step + tile * width);
      }
      u += inputs * width;
    }
  }
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const Place place = PlaceOf<F>(conv, first_tile + tile);
    for (int32_t i = 0; i < panel.vectors; ++i) {
      TransformOutput<F>(conv, place, panel.first + i * kLanes, m + tile * width + i * kLanes,
                         m_step);
    }
  }
}

template <class F>
void Run(const WinogradConv& conv) {
  const int32_t across = (conv.out_width + F::kOutputs - 1) / F::kOutputs;
  const int32_t down = (conv.out_height + F::kOutputs - 1) / F::kOutputs;
  const int32_t all = conv.pictures * down * across;
  const ptrdiff_t padded = (conv.inputs + kLanes - 1) / kLanes * kLanes;
  const ptrdiff_t v_step = WinogradPointStep(conv.block_tiles, padded);
  float* m = conv.scratch + F::kProducts * F::kProducts * v_step;
  const int32_t blocks = (all + conv.block_tiles - 1) / conv.block_tiles;
  const int32_t rows = (all + blocks * kTileRows - 1) / (blocks * kTileRows);
  const int32_t block_tiles = Least(rows * kTileRows, conv.block_tiles);
  for (int32_t first = 0; first < all; first += block_tiles) {
    const int32_t tiles = Least(block_tiles, all - first);
    for (int32_t tile = 0; tile < tiles; ++tile) {
      TransformInput<F>(conv, first + tile, conv.scratch + tile * padded, v_step);
    }
    for (int32_t k = 0; k < conv.outputs; k += kPanelVectors * kLanes) {
      const int32_t vectors = (conv.outputs - k + kLanes - 1) / kLanes;
      RunPanel<F>(conv, first, tiles, {k, Least(kPanelVectors, vectors)}, conv.scratch, v_step, m);
    }
  }
}

}  // namespace

extern const WinogradLoops THINMAPS_WINOGRAD_LOOPS;
const WinogradLoops THINMAPS_WINOGRAD_LOOPS = {
    kLanes,
    kPanelVectors,
    kTileRows,
    {Run<F2x3>, Run<F4x3Thirds>, Run<F4x3Points>, Run<F4x3Quadratic>, Run<F6x3Quadratic>}};

}  // namespace thinmaps
