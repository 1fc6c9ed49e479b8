// SPDX-License-Identifier: Apache-2.0
// Operators that move bytes, or mix neighbours of one map: Concat, Slice, Pad, Resize,
// DepthToSpace.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernel.h"

namespace thinmaps {
namespace {

uint8_t* Pixel(const MapView& view, int32_t row, int32_t column) {
  return view.Row(row) + static_cast<ptrdiff_t>(column) * view.pixel_bytes;
}

// Walks the pixels of a part of the output.
class PixelWise : public Kernel {
 public:
  explicit PixelWise(const Blueprint& blueprint)
      : output_(blueprint.node.output),
        out_(blueprint.output()),
        input_(blueprint.node.inputs[0]),
        in_(blueprint.input(0)) {}

  int32_t work_rows() const final { return out_.height; }

  void Run(const Memory& memory, Rows rows, Part part) const final {
    const Area area = ShareArea(rows, out_.width, part);
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      for (int32_t column = area.columns.first; column < area.columns.stop; ++column) {
        RunPixel(memory, row, column, Pixel(memory.maps[output_], row, column));
      }
    }
  }

 protected:
  virtual void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const = 0;

  int32_t output_;
  MapDescription out_;
  int32_t input_;
  MapDescription in_;
};

class Concat final : public PixelWise {
 public:
  explicit Concat(const Blueprint& blueprint) : PixelWise(blueprint), loops_(blueprint.loops) {
    int32_t channel = 0;
    const uint8_t* table = blueprint.node.table.data();
    for (size_t i = 0; i < blueprint.node.inputs.size(); ++i, table += 256) {
      const MapDescription& in = blueprint.input(i);
      Source source{blueprint.node.inputs[i], channel, in.channels, true, {}};
      std::copy_n(table, 256, source.table.begin());
      for (size_t code = 0; code < 256; ++code) source.is_copy &= table[code] == code;
      // A producer that wrote its slice straight into this map's rows left nothing to do.
      const bool in_place = out_.buffer >= 0 && in.buffer == out_.buffer &&
                            in.channel == out_.channel + channel &&
                            in.pixel_bytes == out_.pixel_bytes;
      if (!(in_place && source.is_copy)) sources_.push_back(source);
      channel += in.channels;
    }
  }

  size_t weights_bytes() const override { return sources_.size() * 256; }

 protected:
  void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const override {
    for (const Source& source : sources_) {
      const uint8_t* x = Pixel(memory.maps[source.map], row, column);
      uint8_t* slice = out + source.channel;
      if (source.is_copy) {
        std::memcpy(slice, x, static_cast<size_t>(source.channels));
      } else {
        loops_.lookup(source.table.data(), x, source.channels, slice);
      }
    }
  }

 private:
  struct Source {
    int32_t map;
    int32_t channel;
    int32_t channels;
    bool is_copy;
    std::array<uint8_t, 256> table;
  };
  const Loops& loops_;
  std::vector<Source> sources_;
};

class Slice final : public PixelWise {
 public:
  explicit Slice(const Blueprint& blueprint) : PixelWise(blueprint), at_(blueprint.node.integers) {}

 protected:
  void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const override {
    const uint8_t* x =
        Pixel(memory.maps[input_], at_[0] + row * at_[1], at_[2] + column * at_[3]) + at_[4];
    std::memcpy(out, x, static_cast<size_t>(out_.channels));
  }

 private:
  std::vector<int32_t> at_;  // row, row step, column, column step, channel
};

class Pad final : public PixelWise {
 public:
  explicit Pad(const Blueprint& blueprint)
      : PixelWise(blueprint),
        top_(blueprint.node.integers[0]),
        left_(blueprint.node.integers[1]),
        channel_(blueprint.node.integers[2]),
        value_(static_cast<uint8_t>(blueprint.node.integers[3])) {}

 protected:
  void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const override {
    const bool inside =
        row >= top_ && row - top_ < in_.height && column >= left_ && column - left_ < in_.width;
    std::fill_n(out, out_.channels, value_);
    if (!inside) return;
    const uint8_t* x = Pixel(memory.maps[input_], row - top_, column - left_);
    std::memcpy(out + channel_, x, static_cast<size_t>(in_.channels));
  }

 private:
  int32_t top_;
  int32_t left_;
  int32_t channel_;
  uint8_t value_;
};

// Two source places and the weight of the second, of 2048, for every output place of an axis.
struct ResizeAxis {
  std::vector<int32_t> low;
  std::vector<int32_t> high;
  std::vector<int32_t> weight;
};

// Reads `extent` pairs, then `extent` weights from the node's integers.
ResizeAxis ReadAxis(const Blueprint& blueprint, size_t first, int32_t extent, int32_t source) {
  ResizeAxis axis;
  const int32_t* integers = blueprint.node.integers.data() + first;
  for (int32_t i = 0; i < extent; ++i) {
    const int32_t low = integers[2 * i];
    const int32_t high = integers[2 * i + 1];
    const int32_t weight = integers[2 * extent + i];
    blueprint.Need(low >= 0 && low < source && high >= 0 && high < source,
                   "source rows and columns inside of its input");
    blueprint.Need(weight >= 0 && weight <= 2048,
                   "weights of 0 to 2048, got " + std::to_string(weight));
    axis.low.push_back(low);
    axis.high.push_back(high);
    axis.weight.push_back(weight);
  }
  return axis;
}

class Resize final : public PixelWise {
 public:
  Resize(const Blueprint& blueprint, ResizeAxis rows, ResizeAxis columns)
      : PixelWise(blueprint),
        loops_(blueprint.loops),
        rows_(std::move(rows)),
        columns_(std::move(columns)) {}

  size_t weights_bytes() const override {
    return (rows_.low.size() + columns_.low.size()) * 3 * sizeof(int32_t);
  }

 protected:
  void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const override {
    const auto i = static_cast<size_t>(row);
    const auto j = static_cast<size_t>(column);
    const MapView& input = memory.maps[input_];
    const int32_t down = rows_.weight[i];
    const int32_t across = columns_.weight[j];
    if (down == 0 && across == 0) {
      const uint8_t* x = Pixel(input, rows_.low[i], columns_.low[j]);
      std::memcpy(out, x, static_cast<size_t>(out_.channels));
      return;
    }
    // A place of weight 0 may have left the ring, or not be made yet: nothing reads it.
    const int32_t low_row = rows_.low[i];
    const int32_t high_row = down == 0 ? low_row : rows_.high[i];
    const uint8_t* corners[4] = {
        Pixel(input, low_row, columns_.low[j]), Pixel(input, low_row, columns_.high[j]),
        Pixel(input, high_row, columns_.low[j]), Pixel(input, high_row, columns_.high[j])};
    const int32_t weights[4] = {(2048 - down) * (2048 - across), (2048 - down) * across,
                                down * (2048 - across), down * across};
    loops_.blend(corners, weights, out_.channels, out);
  }

 private:
  const Loops& loops_;
  ResizeAxis rows_;
  ResizeAxis columns_;
};

class DepthToSpace final : public PixelWise {
 public:
  explicit DepthToSpace(const Blueprint& blueprint)
      : PixelWise(blueprint),
        block_(blueprint.node.integers[0]),
        depth_first_(blueprint.node.integers[1] != 0) {}

 protected:
  void RunPixel(const Memory& memory, int32_t row, int32_t column, uint8_t* out) const override {
    const uint8_t* x = Pixel(memory.maps[input_], row / block_, column / block_);
    const int32_t place = row % block_ * block_ + column % block_;
    if (depth_first_) {
      const ptrdiff_t first = static_cast<ptrdiff_t>(place) * out_.channels;
      std::memcpy(out, x + first, static_cast<size_t>(out_.channels));
    } else {
      for (int32_t c = 0; c < out_.channels; ++c) out[c] = x[c * block_ * block_ + place];
    }
  }

 private:
  int32_t block_;
  bool depth_first_;
};

void CheckRaw(const Blueprint& blueprint) {
  for (size_t i = 0; i < blueprint.node.inputs.size(); ++i) {
    blueprint.NeedBytes(blueprint.input(i));
  }
  blueprint.NeedBytes(blueprint.output());
}

}  // namespace

std::unique_ptr<const Kernel> MakeConcat(const Blueprint& blueprint) {
  const size_t inputs = blueprint.node.inputs.size();
  blueprint.Need(inputs >= 1, "at least one input");
  CheckRaw(blueprint);
  const MapDescription& out = blueprint.output();
  int64_t channels = 0;
  for (size_t i = 0; i < inputs; ++i) {
    const MapDescription& in = blueprint.input(i);
    blueprint.Need(in.height == out.height && in.width == out.width,
                   "inputs as high and wide as its output; map '" + in.name + "' is not");
    channels += in.channels;
  }
  blueprint.Need(channels == out.channels, "inputs whose channels add up to its output's");
  blueprint.Need(blueprint.node.table.size() == 256 * inputs, "a table of 256 entries per input");
  return std::make_unique<Concat>(blueprint);
}

// Integers: row, row step, column, column step, channel.
std::unique_ptr<const Kernel> MakeSlice(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(5);
  CheckRaw(blueprint);
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  const auto& at = blueprint.node.integers;
  const auto last = [](int32_t first, int32_t step, int32_t count) {
    return first + int64_t{step} * (count - 1);
  };
  for (const int32_t value : at) blueprint.Need(value >= 0, "places and steps of at least 0");
  blueprint.Need(last(at[0], at[1], out.height) < in.height &&
                     last(at[2], at[3], out.width) < in.width &&
                     int64_t{at[4]} + out.channels <= in.channels,
                 "a slice inside of its input");
  return std::make_unique<Slice>(blueprint);
}

// Integers: top, left, channel, value.
std::unique_ptr<const Kernel> MakePad(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(4);
  CheckRaw(blueprint);
  const auto& integers = blueprint.node.integers;
  const int32_t channel = integers[2];
  blueprint.Need(
      channel >= 0 && int64_t{channel} + blueprint.input(0).channels <= blueprint.output().channels,
      "its input's channels inside of its output's");
  constexpr int32_t kFar = 1 << 20;
  blueprint.Need(std::abs(integers[0]) <= kFar && std::abs(integers[1]) <= kFar,
                 "a border of at most 2^20 places");
  blueprint.Need(integers[3] >= 0 && integers[3] <= 255, "a byte as its value");
  return std::make_unique<Pad>(blueprint);
}

// Integers: (low, high) per output row, weight per output row; the same for columns.
std::unique_ptr<const Kernel> MakeResize(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  CheckRaw(blueprint);
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.Need(in.channels == out.channels, "as many output as input channels");
  const auto rows = static_cast<size_t>(out.height);
  blueprint.NeedIntegers(3 * (rows + static_cast<size_t>(out.width)));
  return std::make_unique<Resize>(blueprint, ReadAxis(blueprint, 0, out.height, in.height),
                                  ReadAxis(blueprint, 3 * rows, out.width, in.width));
}

// Integers: block, 1 for DCR or 0 for CRD.
std::unique_ptr<const Kernel> MakeDepthToSpace(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(2);
  CheckRaw(blueprint);
  const int64_t block = blueprint.node.integers[0];
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.Need(block >= 1 && block <= 1024 && out.height <= in.height * block &&
                     out.width <= in.width * block && out.channels * block * block <= in.channels,
                 "an input of its output's size divided by the block");
  return std::make_unique<DepthToSpace>(blueprint);
}

}  // namespace thinmaps
