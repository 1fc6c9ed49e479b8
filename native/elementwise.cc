// SPDX-License-Identifier: Apache-2.0
// Operators whose output element depends on one element of each input: the border ones (Picture,
// Quantise), Add, Mul, Lookup. All may write onto an input that dies.
#include <cmath>
#include <optional>
#include <vector>

#include "kernel.h"

namespace thinmaps {
namespace {

// Bytes of `columns` pixels when they lie without gaps, so that a row is one long vector.
bool Dense(const MapView& view, int32_t channels) { return view.pixel_bytes == channels; }

uint8_t* Pixel(const MapView& view, int32_t row, int32_t column) {
  return view.Row(row) + static_cast<ptrdiff_t>(column) * view.pixel_bytes;
}

// Walks a part's rows and columns of the output.
class RowWise : public Kernel {
 public:
  explicit RowWise(const Blueprint& blueprint)
      : loops_(blueprint.loops),
        output_(blueprint.node.output),
        out_(blueprint.output()),
        input_(blueprint.node.inputs[0]) {}

  int32_t work_rows() const final { return out_.height; }

  void Run(const Memory& memory, Rows rows, Part part) const final {
    const Area area = ShareArea(rows, out_.width, part);
    if (area.columns.first == area.columns.stop) return;
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      RunRow(memory, row, area.columns);
    }
  }

 protected:
  virtual void RunRow(const Memory& memory, int32_t row, Range columns) const = 0;

  const Loops& loops_;
  int32_t output_;
  MapDescription out_;
  int32_t input_;
};

class Picture final : public RowWise {
 public:
  explicit Picture(const Blueprint& blueprint)
      : RowWise(blueprint),
        table_(blueprint.node.table),
        source_(blueprint.node.integers),
        in_order_(source_ == std::vector<int32_t>{0, 1, 2}) {}

  size_t weights_bytes() const override { return table_.size(); }

 protected:
  void RunRow(const Memory& memory, int32_t row, Range columns) const override {
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    const uint8_t* x = Pixel(input, row, columns.first);
    uint8_t* out = Pixel(output, row, columns.first);
    if (in_order_ && Dense(input, 3) && Dense(output, 3)) {
      loops_.lookup_three(table_.data(), x, columns.stop - columns.first, out);
      return;
    }
    for (int32_t column = columns.first; column < columns.stop; ++column) {
      const uint8_t* table = table_.data();
      for (size_t c = 0; c < source_.size(); ++c, table += 256) out[c] = table[x[source_[c]]];
      x += input.pixel_bytes;
      out += output.pixel_bytes;
    }
  }

 private:
  std::vector<uint8_t> table_;
  std::vector<int32_t> source_;
  bool in_order_;  // red, green, blue from red, green, blue
};

class Quantise final : public RowWise {
 public:
  explicit Quantise(const Blueprint& blueprint)
      : RowWise(blueprint), rounding_(RoundThenShift(out_.zero_point, 0, 255)) {}

 protected:
  void RunRow(const Memory& memory, int32_t row, Range columns) const override {
    for (int32_t column = columns.first; column < columns.stop; ++column) {
      const auto* x = reinterpret_cast<const float*>(Pixel(memory.maps[input_], row, column));
      loops_.quantise(x, out_.scale, out_.channels, rounding_,
                      Pixel(memory.maps[output_], row, column));
    }
  }

 private:
  Rounding rounding_;
};

class Lookup final : public RowWise {
 public:
  explicit Lookup(const Blueprint& blueprint)
      : RowWise(blueprint),
        table_(blueprint.node.table),
        channel_step_(table_.size() > 256 ? 256 : 0) {}

  size_t weights_bytes() const override { return table_.size(); }

 protected:
  void RunRow(const Memory& memory, int32_t row, Range columns) const override {
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    const bool one_run =
        channel_step_ == 0 && Dense(input, out_.channels) && Dense(output, out_.channels);
    const int32_t step = one_run ? columns.stop - columns.first : 1;
    for (int32_t column = columns.first; column < columns.stop; column += step) {
      const uint8_t* x = Pixel(input, row, column);
      uint8_t* out = Pixel(output, row, column);
      const uint8_t* table = table_.data();
      if (channel_step_ == 0) {
        loops_.lookup(table, x, step * out_.channels, out);
        continue;
      }
      for (int32_t c = 0; c < out_.channels; ++c, table += channel_step_) out[c] = table[x[c]];
    }
  }

 private:
  std::vector<uint8_t> table_;
  ptrdiff_t channel_step_;
};

// Add and Mul: two inputs, either of which may be one pixel high, wide, or both.
class Binary : public RowWise {
 public:
  explicit Binary(const Blueprint& blueprint)
      : RowWise(blueprint),
        a_{blueprint.node.inputs[0], blueprint.input(0)},
        b_{blueprint.node.inputs[1], blueprint.input(1)},
        rounding_(ShiftThenRound(out_.zero_point, blueprint.node.integers[0],
                                 blueprint.node.integers[1])) {}

 protected:
  void RunRow(const Memory& memory, int32_t row, Range columns) const final {
    const MapView& output = memory.maps[output_];
    const bool dense =
        a_.IsDense(memory, out_) && b_.IsDense(memory, out_) && Dense(output, out_.channels);
    const int32_t step = dense ? columns.stop - columns.first : 1;
    for (int32_t column = columns.first; column < columns.stop; column += step) {
      Elements(a_.At(memory, row, column), b_.At(memory, row, column), step * out_.channels,
               Pixel(output, row, column));
    }
  }

  virtual void Elements(const uint8_t* a, const uint8_t* b, int32_t count, uint8_t* out) const = 0;

  struct Source {
    int32_t index;
    MapDescription map;

    const uint8_t* At(const Memory& memory, int32_t row, int32_t column) const {
      return Pixel(memory.maps[index], map.height == 1 ? 0 : row, map.width == 1 ? 0 : column);
    }
    bool IsDense(const Memory& memory, const MapDescription& out) const {
      return map.width == out.width && Dense(memory.maps[index], map.channels);
    }
  };

  Source a_;
  Source b_;
  Rounding rounding_;
};

// The steps of both ratios on the coarsest grid that leaves them below 2^15, if both lie on one.
std::optional<GridSum> OnGrid(const Operand& a, const Operand& b, const Rounding& rounding) {
  constexpr int kStepBits = 15;
  constexpr float kLeast = 0x1p-40f;  // far from denormals
  constexpr float kMost = 0x1p7f;     // for a grid of at most 2^-8
  const auto fits = [](float ratio) { return ratio >= kLeast && ratio < kMost; };
  if (!fits(a.ratio) || !fits(b.ratio) || rounding.before != 0) return std::nullopt;
  int exponent = 0;
  std::frexp(std::max(a.ratio, b.ratio), &exponent);
  exponent -= kStepBits;
  const float a_steps = std::ldexp(a.ratio, -exponent);
  const float b_steps = std::ldexp(b.ratio, -exponent);
  if (a_steps != std::floor(a_steps) || b_steps != std::floor(b_steps)) return std::nullopt;
  const auto x = static_cast<int32_t>(a_steps);
  const auto y = static_cast<int32_t>(b_steps);
  return GridSum{x, y, -a.zero_point * x - b.zero_point * y, std::ldexp(1.0f, exponent)};
}

class Add final : public Binary {
 public:
  explicit Add(const Blueprint& blueprint)
      : Binary(blueprint),
        ratio_(blueprint.node.multiplier),
        on_grid_(OnGrid({nullptr, a_.map.zero_point, ratio_[0]},
                        {nullptr, b_.map.zero_point, ratio_[1]}, rounding_)) {}

 protected:
  void Elements(const uint8_t* a, const uint8_t* b, int32_t count, uint8_t* out) const override {
    if (on_grid_) return loops_.add_on_grid(*on_grid_, a, b, count, rounding_, out);
    loops_.add({a, a_.map.zero_point, ratio_[0]}, {b, b_.map.zero_point, ratio_[1]}, count,
               rounding_, out);
  }

 private:
  std::vector<float> ratio_;
  std::optional<GridSum> on_grid_;
};

class Mul final : public Binary {
 public:
  explicit Mul(const Blueprint& blueprint)
      : Binary(blueprint), multiplier_(blueprint.node.multiplier[0]) {}

 protected:
  void Elements(const uint8_t* a, const uint8_t* b, int32_t count, uint8_t* out) const override {
    loops_.multiply({a, a_.map.zero_point, 1.0f}, {b, b_.map.zero_point, 1.0f}, multiplier_, count,
                    rounding_, out);
  }

 private:
  float multiplier_;
};

void CheckBinary(const Blueprint& blueprint, size_t multipliers) {
  blueprint.NeedInputs(2);
  blueprint.NeedIntegers(2);
  blueprint.Need(blueprint.node.multiplier.size() == multipliers,
                 std::to_string(multipliers) + " multipliers");
  const MapDescription& out = blueprint.output();
  blueprint.NeedBytes(out);
  for (size_t i = 0; i < 2; ++i) {
    const MapDescription& in = blueprint.input(i);
    blueprint.NeedBytes(in);
    blueprint.Need(in.channels == out.channels && (in.height == 1 || in.height == out.height) &&
                       (in.width == 1 || in.width == out.width),
                   "inputs of its output's shape, or one pixel high or wide; map '" + in.name +
                       "' is neither");
  }
}

}  // namespace

// Integers: the source channel of each output channel.
std::unique_ptr<const Kernel> MakePicture(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.NeedBytes(in);
  blueprint.NeedBytes(out);
  blueprint.Need(in.height == out.height && in.width == out.width,
                 "an input as high and wide as its output");
  blueprint.NeedIntegers(static_cast<size_t>(out.channels));
  for (const int32_t source : blueprint.node.integers) {
    blueprint.Need(source >= 0 && source < in.channels,
                   "source channels inside of its input, got " + std::to_string(source));
  }
  blueprint.Need(blueprint.node.table.size() == 256 * static_cast<size_t>(out.channels),
                 "a table of 256 entries per channel");
  return std::make_unique<Picture>(blueprint);
}

std::unique_ptr<const Kernel> MakeQuantise(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  const MapDescription& in = blueprint.input(0);
  blueprint.NeedBytes(blueprint.output());
  blueprint.NeedSameShape(in, blueprint.output());
  blueprint.Need(in.is_float && in.buffer < 0, "a float32 input in the caller's buffer");
  return std::make_unique<Quantise>(blueprint);
}

std::unique_ptr<const Kernel> MakeLookup(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  const MapDescription& out = blueprint.output();
  blueprint.NeedBytes(blueprint.input(0));
  blueprint.NeedBytes(out);
  blueprint.NeedSameShape(blueprint.input(0), out);
  const size_t entries = blueprint.node.table.size();
  blueprint.Need(
      entries == 256 || entries == 256 * static_cast<size_t>(out.channels),
      "one table of 256 entries, or one per channel, got " + std::to_string(entries) + " entries");
  return std::make_unique<Lookup>(blueprint);
}

// Integers: low, high.
std::unique_ptr<const Kernel> MakeAdd(const Blueprint& blueprint) {
  CheckBinary(blueprint, 2);
  return std::make_unique<Add>(blueprint);
}

// Integers: low, high.
std::unique_ptr<const Kernel> MakeMul(const Blueprint& blueprint) {
  CheckBinary(blueprint, 1);
  return std::make_unique<Mul>(blueprint);
}

}  // namespace thinmaps
