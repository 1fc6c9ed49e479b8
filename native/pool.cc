// SPDX-License-Identifier: Apache-2.0
// Pools over a window, and the mean over a whole map in running sums.
#include <algorithm>
#include <vector>

#include "kernel.h"
#include "window.h"

namespace thinmaps {
namespace {

constexpr int32_t kChunkChannels = 64;

// The part of a window that lies in the map, one axis: taps first..stop-1.
Range TapsInside(const Window& window, size_t axis, int32_t place, int32_t extent) {
  const int32_t left = place * window.stride[axis] - window.pads[axis];
  const int32_t dilation = window.dilation[axis];
  const int32_t first = left >= 0 ? 0 : (-left + dilation - 1) / dilation;
  const int32_t stop = left >= extent ? 0 : (extent - 1 - left) / dilation + 1;
  return {std::min(first, window.kernel[axis]), std::min(stop, window.kernel[axis])};
}

// Calls visit(pixel) for every input pixel under the window of (row, column).
template <typename Visit>
void VisitWindow(const Window& window, const MapDescription& in, const MapView& input, int32_t row,
                 int32_t column, Visit visit) {
  const Range down = TapsInside(window, 0, row, in.height);
  const Range across = TapsInside(window, 1, column, in.width);
  const int32_t top = row * window.stride[0] - window.pads[0];
  const int32_t left = column * window.stride[1] - window.pads[1];
  for (int32_t r = down.first; r < down.stop; ++r) {
    const uint8_t* source = input.Row(top + r * window.dilation[0]);
    for (int32_t s = across.first; s < across.stop; ++s) {
      const ptrdiff_t place = left + s * window.dilation[1];
      visit(source + place * input.pixel_bytes);
    }
  }
}

class MaxPool final : public Kernel {
 public:
  MaxPool(const Blueprint& blueprint, const Window& window)
      : loops_(blueprint.loops),
        window_(window),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()) {}

  int32_t work_rows() const override { return out_.height; }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const Area area = ShareArea(rows, out_.width, part);
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      RunRow(memory, row, area.columns);
    }
  }

 private:
  static constexpr int32_t kMostPixels = 128;  // under a window, at once

  void RunRow(const Memory& memory, int32_t row, Range columns) const {
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    const Range down = TapsInside(window_, 0, row, in_.height);
    const int32_t top = row * window_.stride[0] - window_.pads[0];
    const int32_t reach = (window_.kernel[1] - 1) * window_.dilation[1];
    uint8_t* out = output.Row(row) + ptrdiff_t{columns.first} * output.pixel_bytes;
    for (int32_t column = columns.first; column < columns.stop; ++column) {
      const int32_t left = column * window_.stride[1] - window_.pads[1];
      const bool inside = left >= 0 && left + reach < in_.width;
      const Range across =
          inside ? Range{0, window_.kernel[1]} : TapsInside(window_, 1, column, in_.width);
      const uint8_t* pixels[kMostPixels];
      int32_t count = 0;
      for (int32_t r = down.first; r < down.stop; ++r) {
        const uint8_t* source = input.Row(top + r * window_.dilation[0]);
        for (int32_t s = across.first; s < across.stop; ++s) {
          // What is the largest so far counts like a pixel.
          if (count == kMostPixels) {
            loops_.largest(pixels, count, out_.channels, out);
            pixels[0] = out;
            count = 1;
          }
          pixels[count++] = source + ptrdiff_t{left + s * window_.dilation[1]} * input.pixel_bytes;
        }
      }
      if (count > 0) {
        loops_.largest(pixels, count, out_.channels, out);
      } else {
        std::fill_n(out, out_.channels, uint8_t{0});
      }
      out += output.pixel_bytes;
    }
  }

  const Loops& loops_;
  Window window_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
};

class AveragePool final : public Kernel {
 public:
  AveragePool(const Blueprint& blueprint, const Window& window)
      : loops_(blueprint.loops),
        window_(window),
        count_include_pad_(blueprint.node.integers[10] != 0),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        multiplier_(blueprint.node.multiplier),
        rounding_(ShiftThenRound(out_.zero_point, 0, 255)) {}

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return multiplier_.size() * sizeof(float); }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const Area area = ShareArea(rows, out_.width, part);
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      for (int32_t column = area.columns.first; column < area.columns.stop; ++column) {
        RunPixel(memory, row, column);
      }
    }
  }

 private:
  void RunPixel(const Memory& memory, int32_t row, int32_t column) const {
    const MapView& output = memory.maps[output_];
    uint8_t* out = output.Row(row) + static_cast<ptrdiff_t>(column) * output.pixel_bytes;
    const int32_t divisor = Divisor(0, row, in_.height) * Divisor(1, column, in_.width);
    for (int32_t first = 0; first < out_.channels; first += kChunkChannels) {
      const int32_t channels = std::min(kChunkChannels, out_.channels - first);
      int32_t sums[kChunkChannels] = {};
      VisitWindow(window_, in_, memory.maps[input_], row, column, [&](const uint8_t* pixel) {
        loops_.accumulate(pixel + first, channels, in_.zero_point, sums);
      });
      loops_.scale(sums, multiplier_[static_cast<size_t>(divisor)], channels, rounding_,
                   out + first);
    }
  }

  // Window elements that count along one axis: those in the map, and those in the declared
  // padding where it counts; never those beyond it (ceil_mode's overhang).
  int32_t Divisor(size_t axis, int32_t place, int32_t extent) const {
    if (!count_include_pad_) {
      const Range inside = TapsInside(window_, axis, place, extent);
      return std::max(inside.stop - inside.first, 0);
    }
    Window padded = window_;
    padded.pads[axis] = 0;
    const Range inside =
        TapsInside(padded, axis, place, window_.pads[axis] + extent + window_.pads[axis + 2]);
    return std::max(inside.stop - inside.first, 0);
  }

  const Loops& loops_;
  Window window_;
  bool count_include_pad_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  std::vector<float> multiplier_;
  Rounding rounding_;
};

// Work rows are input rows; the sums live in the arena, and the last row writes the output.
class Mean final : public Kernel {
 public:
  explicit Mean(const Blueprint& blueprint)
      : loops_(blueprint.loops),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        state_offset_(
            blueprint.description.buffers[static_cast<size_t>(blueprint.node.state)].offset),
        multiplier_(blueprint.node.multiplier[0]),
        rounding_(RoundThenShift(out_.zero_point, 0, 255)) {}

  int32_t work_rows() const override { return in_.height; }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const Range share = Share(in_.channels, part);
    const int32_t channels = share.stop - share.first;
    if (channels == 0) return;
    const MapView& input = memory.maps[input_];
    auto* sums = reinterpret_cast<int32_t*>(memory.arena + state_offset_) + share.first;
    if (rows.first == 0) std::fill_n(sums, channels, 0);
    for (int32_t row = rows.first; row < rows.first + rows.count; ++row) {
      const uint8_t* pixel = input.Row(row) + share.first;
      for (int32_t column = 0; column < in_.width; ++column, pixel += input.pixel_bytes) {
        loops_.accumulate(pixel, channels, in_.zero_point, sums);
      }
    }
    if (rows.first + rows.count == in_.height) Finish(memory, share, sums);
  }

 private:
  void Finish(const Memory& memory, Range share, const int32_t* sums) const {
    uint8_t* out = memory.maps[output_].Row(0);
    const int32_t channels = share.stop - share.first;
    if (!out_.is_float) {
      loops_.scale(sums, multiplier_, channels, rounding_, out + share.first);
      return;
    }
    auto* values = reinterpret_cast<float*>(out) + share.first;
    for (int32_t c = 0; c < channels; ++c) values[c] = static_cast<float>(sums[c]) * multiplier_;
  }

  const Loops& loops_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  int64_t state_offset_;
  float multiplier_;
  Rounding rounding_;
};

Window CheckPool(const Blueprint& blueprint, size_t integers) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(integers);
  blueprint.NeedBytes(blueprint.input(0));
  blueprint.NeedBytes(blueprint.output());
  blueprint.Need(blueprint.input(0).channels == blueprint.output().channels,
                 "as many output as input channels");
  return ReadWindow(blueprint);
}

}  // namespace

// Integers: the window.
std::unique_ptr<const Kernel> MakeMaxPool(const Blueprint& blueprint) {
  return std::make_unique<MaxPool>(blueprint, CheckPool(blueprint, Window::kIntegers));
}

// Integers: the window, count_include_pad.
std::unique_ptr<const Kernel> MakeAveragePool(const Blueprint& blueprint) {
  const Window window = CheckPool(blueprint, Window::kIntegers + 1);
  const auto taps = static_cast<size_t>(window.kernel[0]) * static_cast<size_t>(window.kernel[1]);
  blueprint.Need(blueprint.node.multiplier.size() == taps + 1, "a multiplier per divisor");
  return std::make_unique<AveragePool>(blueprint, window);
}

std::unique_ptr<const Kernel> MakeMean(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  blueprint.NeedBytes(blueprint.input(0));
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.Need(out.height == 1 && out.width == 1 && out.channels == in.channels,
                 "an output of 1 x 1 pixel with its input's channels");
  blueprint.Need(blueprint.node.multiplier.size() == 1, "one multiplier");
  blueprint.Need(int64_t{in.height} * in.width * 255 < (int64_t{1} << 31),
                 "sums that fit 32 bits: fewer than 2^31 / 255 pixels");
  const auto& buffers = blueprint.description.buffers;
  const int32_t state = blueprint.node.state;
  blueprint.Need(state >= 0 && static_cast<size_t>(state) < buffers.size() &&
                     buffers[static_cast<size_t>(state)].offset % 4 == 0 &&
                     buffers[static_cast<size_t>(state)].slots *
                             buffers[static_cast<size_t>(state)].slot_bytes >=
                         int64_t{4} * in.channels,
                 "an aligned buffer of 4 bytes per channel for its sums");
  return std::make_unique<Mean>(blueprint);
}

}  // namespace thinmaps
