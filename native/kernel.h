// SPDX-License-Identifier: Apache-2.0
// One node of a network, ready to run: its constants packed, every bound checked.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "conv_row.h"
#include "description.h"
#include "loops.h"
#include "scaled_tile.h"
#include "sparse_row.h"
#include "winograd_exact_loops.h"

namespace thinmaps {

// Where the rows of one map live now. Shared by all steps of a run.
struct MapView {
  uint8_t* base = nullptr;
  int64_t slot_bytes = 0;
  int32_t slots = 1;
  int32_t unit_rows = 1;
  int32_t pixel_bytes = 0;

  uint8_t* Row(int32_t row) const { return base + row / unit_rows % slots * slot_bytes; }
};

struct Memory {
  uint8_t* arena = nullptr;
  const MapView* maps = nullptr;
  int64_t* encoded_bytes = nullptr;  // by map: bytes that encoders have stored, with their lengths
  int64_t* overflows = nullptr;      // by map: units that passed their cap
};

struct Rows {
  int32_t first = 0;
  int32_t count = 0;
};

// The share of thread `index` of `count`.
struct Part {
  int32_t index = 0;
  int32_t count = 1;
};

struct Range {
  int32_t first = 0;
  int32_t stop = 0;
};

// Items of `items` that belong to a part; parts are contiguous and cover all items.
inline Range Share(int32_t items, Part part) {
  const int64_t all = items;
  return {static_cast<int32_t>(all * part.index / part.count),
          static_cast<int32_t>(all * (part.index + 1) / part.count)};
}

// The fraction of the items that the largest part has.
inline float LargestShare(int32_t items, Part part) {
  return static_cast<float>((items + part.count - 1) / part.count) / static_cast<float>(items);
}

// A step's rows and columns, split by rows where that gives everybody as many, or so many that one
// row more or less is little; else by columns.
struct Area {
  Range rows;
  Range columns;
};

constexpr int32_t kManyRows = 8;

inline Area ShareArea(Rows rows, int32_t width, Part part) {
  if (rows.count % part.count == 0 || rows.count >= kManyRows * part.count) {
    const Range share = Share(rows.count, part);
    return {{rows.first + share.first, rows.first + share.stop}, {0, width}};
  }
  return {{rows.first, rows.first + rows.count}, Share(width, part)};
}

class Kernel {
 public:
  virtual ~Kernel() = default;

  // Does a part of work rows `rows`. Allocates nothing, throws nothing.
  virtual void Run(const Memory& memory, Rows rows, Part part) const = 0;

  virtual int32_t work_rows() const = 0;
  virtual size_t weights_bytes() const { return 0; }

  // More parts of a step than this would have nothing to do.
  virtual int32_t most_parts(Rows /*rows*/) const { return std::numeric_limits<int32_t>::max(); }

  // A step must start at a multiple of this and end at one or at the last row.
  virtual int32_t step_rows() const { return 1; }
};

// Packed filters by the node's name and their layout; several models of one network share them.
struct Packed {
  virtual ~Packed() = default;
};
using PackedWeights = std::map<std::pair<std::string, std::string>, std::shared_ptr<const Packed>>;

// What a kernel is built from. The constructor of every kernel checks what it will rely on.
struct Blueprint {
  const Description& description;
  const NodeDescription& node;
  const Loops& loops;
  const ConvLoops& conv_loops;
  const SparseLoops& sparse_loops;
  const TileLoops& tile_loops;
  const WinogradExactLoops& winograd_loops;
  PackedWeights& packed;

  const MapDescription& input(size_t index) const {
    return description.maps[static_cast<size_t>(node.inputs[index])];
  }
  const MapDescription& output() const {
    return description.maps[static_cast<size_t>(node.output)];
  }

  // Throws std::invalid_argument "node 'x' (op) needs ..." unless `holds`.
  void Need(bool holds, const std::string& what) const {
    if (!holds) {
      throw std::invalid_argument("node '" + node.name + "' (" + node.op + ") needs " + what);
    }
  }
  void NeedInputs(size_t count) const {
    Need(node.inputs.size() == count,
         std::to_string(count) + " inputs, got " + std::to_string(node.inputs.size()));
  }
  void NeedIntegers(size_t count) const {
    Need(node.integers.size() == count,
         std::to_string(count) + " integers, got " + std::to_string(node.integers.size()));
  }
  void NeedBytes(const MapDescription& map) const {
    Need(!map.is_float, "uint8 values in map '" + map.name + "', got float32");
  }
  void NeedSameShape(const MapDescription& a, const MapDescription& b) const {
    Need(a.height == b.height && a.width == b.width && a.channels == b.channels,
         "maps '" + a.name + "' and '" + b.name + "' of one shape");
  }
};

// Conv, Gemm, depthwise, Mean: the zero point is added after rounding.
inline Rounding RoundThenShift(int32_t zero_point, int32_t low, int32_t high) {
  return {0.0f, static_cast<float>(low - zero_point), static_cast<float>(high - zero_point),
          zero_point};
}

// Add, Mul, AveragePool: an odd zero point is added before rounding.
inline Rounding ShiftThenRound(int32_t zero_point, int32_t low, int32_t high) {
  if (zero_point % 2 == 0) return RoundThenShift(zero_point, low, high);
  return {static_cast<float>(zero_point), static_cast<float>(low), static_cast<float>(high), 0};
}

// The kernel of a node. Throws std::invalid_argument with one sentence where it does not fit.
std::unique_ptr<const Kernel> MakeKernel(const Blueprint& blueprint);

std::unique_ptr<const Kernel> MakeConv(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeWinogradConv(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeCodedConv(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeConvTranspose(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeDepthwise(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeMaxPool(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeAveragePool(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeMean(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakePicture(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeQuantise(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeAdd(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeMul(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeLookup(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeConcat(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeSlice(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakePad(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeResize(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeDepthToSpace(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeEncode(const Blueprint& blueprint);
std::unique_ptr<const Kernel> MakeDecode(const Blueprint& blueprint);

}  // namespace thinmaps
