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
constexpr size_t kGroup = 4;        // taps that are multiplied at once

// Filters [tap][channel] from [channel][1][tap].
void PackPlain(const NodeDescription& node, size_t taps, Filters& filters) {
  const size_t channels = node.bias.size();
  filters.weights.resize(taps * channels);
  for (size_t c = 0; c < channels; ++c) {
    for (size_t t = 0; t < taps; ++t)
      filters.weights[t * channels + c] = node.weights[c * taps + t];
  }
}

// Blocks of channels as depthwise_loops.h wants them. Where several pixels fill a block, their
// filters are repeated in it.
void PackBlocks(const NodeDescription& node, size_t taps, size_t block, Filters& filters) {
  const auto bias = std::move(filters.bias);
  const auto multiplier = std::move(filters.multiplier);
  const size_t channels = bias.size();
  const size_t groups = (taps + kGroup - 1) / kGroup;
  const size_t places = (channels + block - 1) / block * block;
  const bool repeats = block % channels == 0;
  filters.bias.assign(places, 0);
  filters.multiplier.assign(places, 0.0f);
  filters.weights.assign(places * groups * kGroup, 0);
  for (size_t place = 0; place < places; ++place) {
    const size_t c = repeats ? place % channels : place;
    if (c >= channels) continue;
    const size_t in_block = place % block;
    const size_t vector = in_block % 16 / 4;
    const size_t lane = in_block / 16 * 4 + in_block % 4;
    const size_t first = place - in_block;
    filters.bias[first + vector * 16 + lane] = bias[c];
    filters.multiplier[first + vector * 16 + lane] = multiplier[c];
    for (size_t t = 0; t < taps; ++t) {
      const size_t quad = (first / block * groups + t / kGroup) * block + vector * 16 + lane;
      filters.weights[quad * kGroup + t % kGroup] = node.weights[c * taps + t];
    }
  }
}

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, size_t taps) {
  const auto block = static_cast<size_t>(blueprint.loops.depthwise_block);
  const std::string layout = "blocks of " + std::to_string(block);
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  const NodeDescription& node = blueprint.node;
  auto filters = std::make_shared<Filters>();
  filters->multiplier.assign(node.multiplier.begin(), node.multiplier.end());
  for (size_t c = 0; c < node.bias.size(); ++c) {
    auto bias = static_cast<uint32_t>(node.bias[c]);
    for (size_t t = 0; t < taps; ++t) {
      bias -= static_cast<uint32_t>(blueprint.input(0).zero_point * node.weights[c * taps + t]);
    }
    filters->bias.push_back(static_cast<int32_t>(bias));
  }
  if (block == 0) {
    PackPlain(node, taps, *filters);
  } else {
    PackBlocks(node, taps, block, *filters);
  }
  return ShareFilters(blueprint, layout, std::move(filters));
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
    // Rows under the window, one entry per filter row; nullptr outside of the map.
    std::array<const uint8_t*, kMostTaps> rows;
    bool inside = true;
    for (int32_t r = 0; r < window_.kernel[0]; ++r) {
      const int32_t place = row * window_.stride[0] - window_.pads[0] + r * window_.dilation[0];
      const bool exists = place >= 0 && place < in_.height;
      rows[static_cast<size_t>(r)] = exists ? input.Row(place) : nullptr;
      inside &= exists;
    }
    const Range middle = inside ? Inside(columns) : Range{columns.first, columns.first};
    for (int32_t column = columns.first; column < middle.first; ++column) {
      RunPixels(memory, rows.data(), row, {column, column + 1});
    }
    RunMiddle(memory, rows.data(), row, middle);
    for (int32_t column = middle.stop; column < columns.stop; ++column) {
      RunPixels(memory, rows.data(), row, {column, column + 1});
    }
  }

  // The columns whose windows need no padding.
  Range Inside(Range columns) const {
    const int32_t stride = window_.stride[1];
    const int32_t reach = (window_.kernel[1] - 1) * window_.dilation[1] + 1;
    const int32_t last = in_.width - reach + window_.pads[1];  // largest column * stride
    const int32_t stop = last < 0 ? 0 : last / stride + 1;
    const int32_t first = std::max(columns.first, (window_.pads[1] + stride - 1) / stride);
    if (first >= std::min(columns.stop, stop)) return {columns.first, columns.first};
    return {first, std::min(columns.stop, stop)};
  }

  // As RunPixels; neighbouring pixels that fill a block together are done as one.
  void RunMiddle(const Memory& memory, const uint8_t* const* rows, int32_t row,
                 Range columns) const {
    const int32_t block = loops_.depthwise_block;
    const bool joins = block > out_.channels && block % out_.channels == 0 &&
                       window_.stride[1] == 1 && memory.maps[input_].pixel_bytes == out_.channels &&
                       memory.maps[output_].pixel_bytes == out_.channels;
    const int32_t count = columns.stop - columns.first;
    const int32_t joined = joins ? block / out_.channels : 1;
    const int32_t whole = joins ? count / joined * joined : 0;
    if (whole > 0) {
      RunPixels(memory, rows, row, {columns.first, columns.first + whole}, joined);
    }
    if (count > whole) RunPixels(memory, rows, row, {columns.first + whole, columns.stop});
  }

  // Pixels whose windows need no padding, or a single one; `joined` at a time.
  void RunPixels(const Memory& memory, const uint8_t* const* rows, int32_t row, Range columns,
                 int32_t joined = 1) const {
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    std::array<const uint8_t*, kMostTaps + kGroup> taps;
    const int32_t left = columns.first * window_.stride[1] - window_.pads[1];
    const int32_t count = FindPixels(rows, left, input.pixel_bytes, taps.data());
    for (size_t t = 0; t < kGroup - 1; ++t) taps[static_cast<size_t>(count) + t] = taps[0];
    loops_.depthwise({taps.data(), count, ptrdiff_t{joined} * window_.stride[1] * input.pixel_bytes,
                      (columns.stop - columns.first) / joined, joined * out_.channels,
                      filters_->weights.data(), filters_->bias.data(), filters_->multiplier.data(),
                      rounding_, output.Row(row) + ptrdiff_t{columns.first} * output.pixel_bytes,
                      ptrdiff_t{joined} * output.pixel_bytes});
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
