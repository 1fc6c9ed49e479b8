// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution: one filter per channel, vectors run along the channels of a pixel.
#include <array>
#include <vector>

#include "filters.h"
#include "kernel.h"
#include "window.h"

namespace thinmaps {
namespace {

constexpr size_t kMostTaps = 1024;  // bounds the stack
constexpr const char* kLayout = "channels";

// Filters [tap][channel] from [channel][1][tap].
std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, size_t taps) {
  if (auto shared = SharedFilters(blueprint, kLayout)) return shared;
  const NodeDescription& node = blueprint.node;
  const size_t channels = node.bias.size();
  auto filters = std::make_shared<Filters>();
  filters->bias = node.bias;
  filters->multiplier = node.multiplier;
  filters->weights.resize(taps * channels);
  for (size_t c = 0; c < channels; ++c) {
    auto bias = static_cast<uint32_t>(node.bias[c]);
    for (size_t t = 0; t < taps; ++t) {
      const int8_t weight = node.weights[c * taps + t];
      filters->weights[t * channels + c] = weight;
      bias -= static_cast<uint32_t>(blueprint.input(0).zero_point * weight);
    }
    filters->bias[c] = static_cast<int32_t>(bias);
  }
  return ShareFilters(blueprint, kLayout, std::move(filters));
}

class Depthwise final : public Kernel {
 public:
  Depthwise(const Blueprint& blueprint, const Window& window)
      : loops_(blueprint.loops),
        window_(window),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        rounding_(RoundThenShift(out_.zero_point, blueprint.node.integers[11],
                                 blueprint.node.integers[12])),
        filters_(Pack(blueprint, static_cast<size_t>(window.kernel[0] * window.kernel[1]))),
        padding_(static_cast<size_t>(in_.channels), static_cast<uint8_t>(in_.zero_point)) {}

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return filters_->bytes() + padding_.size(); }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const Area area = ShareArea(rows, out_.width, part);
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      RunRow(memory, row, area.columns);
    }
  }

 private:
  void RunRow(const Memory& memory, int32_t row, Range columns) const {
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    // Rows under the window, one entry per filter row; nullptr outside of the map.
    std::array<const uint8_t*, kMostTaps> rows;
    for (int32_t r = 0; r < window_.kernel[0]; ++r) {
      const int32_t place = row * window_.stride[0] - window_.pads[0] + r * window_.dilation[0];
      rows[static_cast<size_t>(r)] = place >= 0 && place < in_.height ? input.Row(place) : nullptr;
    }
    std::array<const uint8_t*, kMostTaps> pixels;
    uint8_t* out = output.Row(row) + static_cast<ptrdiff_t>(columns.first) * output.pixel_bytes;
    for (int32_t column = columns.first; column < columns.stop; ++column) {
      const int32_t left = column * window_.stride[1] - window_.pads[1];
      const int32_t taps = FindPixels(rows.data(), left, input.pixel_bytes, pixels.data());
      loops_.depthwise(pixels.data(), taps, out_.channels, filters_->weights.data(),
                       filters_->bias.data(), filters_->multiplier.data(), rounding_, out);
      out += output.pixel_bytes;
    }
  }

  // Where the window's taps lie whose first column is `left`; outside of the map is padding.
  int32_t FindPixels(const uint8_t* const* rows, int32_t left, ptrdiff_t pixel_bytes,
                     const uint8_t** pixels) const {
    int32_t taps = 0;
    for (int32_t r = 0; r < window_.kernel[0]; ++r) {
      int32_t place = left;
      for (int32_t s = 0; s < window_.kernel[1]; ++s, place += window_.dilation[1]) {
        const bool inside = rows[r] != nullptr && place >= 0 && place < in_.width;
        pixels[taps++] = inside ? rows[r] + place * pixel_bytes : padding_.data();
      }
    }
    return taps;
  }

  const Loops& loops_;
  Window window_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  Rounding rounding_;
  std::shared_ptr<const Filters> filters_;
  std::vector<uint8_t> padding_;
};

}  // namespace

// Integers: the window, groups, low, high; MakeConv has found a depthwise shape.
std::unique_ptr<const Kernel> MakeDepthwise(const Blueprint& blueprint) {
  blueprint.NeedBytes(blueprint.input(0));
  blueprint.NeedBytes(blueprint.output());
  const Window window = ReadWindow(blueprint);
  const auto taps = static_cast<size_t>(window.kernel[0]) * static_cast<size_t>(window.kernel[1]);
  blueprint.Need(taps <= kMostTaps, "at most 1024 filter taps, got " + std::to_string(taps));
  CheckFilters(blueprint, taps);
  return std::make_unique<Depthwise>(blueprint, window);
}

}  // namespace thinmaps
