// SPDX-License-Identifier: Apache-2.0
// Convolution and transposed convolution: tiles of 8 pixels by 16 output channels, straight from
// the rows in the arena, without a copy of the input (no im2col, no scratch).
//
// acc = bias + sum w * (x - zx) is computed as (bias - zx * sum w) + sum w * x over raw bytes;
// virtual padding then is a pixel of zero points.
#include <array>
#include <vector>

#include "filters.h"
#include "kernel.h"
#include "window.h"

namespace thinmaps {
namespace {

constexpr int32_t kChunkTaps = 64;  // taps per call of the inner loop: bounds the stack
constexpr int32_t kMaxKernelRows = 256;

struct Shape {
  int32_t groups, group_inputs, group_outputs, kernel_rows, kernel_columns;

  int32_t quads() const { return (group_inputs + kQuad - 1) / kQuad; }
  int32_t group_blocks() const { return (group_outputs + kBlockChannels - 1) / kBlockChannels; }
  int32_t blocks() const { return groups * group_blocks(); }
  int32_t taps() const { return kernel_rows * kernel_columns; }
};

// Filters [phase row][phase column][block][tap][quad][16][4], bias [phases][block][16],
// multipliers [block][16].
struct Packer {
  const NodeDescription& node;
  const Shape& shape;
  int32_t zero_point;
  Filters& filters;

  int32_t Weight(int32_t output, int32_t input, int32_t r, int32_t s) const {
    const auto index = [](int32_t i) { return static_cast<size_t>(i); };
    const size_t filter = index(output) * index(shape.group_inputs) + index(input);
    const size_t row = filter * index(shape.kernel_rows) + index(r);
    return node.weights[row * index(shape.kernel_columns) + index(s)];
  }

  void PackTap(int32_t block, int32_t r, int32_t s, int32_t* bias) {
    const int32_t group = block / shape.group_blocks();
    const int32_t first = block % shape.group_blocks() * kBlockChannels;
    for (int32_t c = 0; c < shape.quads() * kQuad; c += kQuad) {
      for (int32_t k = 0; k < kBlockChannels; ++k) {
        for (int32_t i = 0; i < kQuad; ++i) {
          const bool real = first + k < shape.group_outputs && c + i < shape.group_inputs;
          const int32_t output = group * shape.group_outputs + first + k;
          const int32_t w = real ? Weight(output, c + i, r, s) : 0;
          filters.weights.push_back(static_cast<int8_t>(w));
          // Sums wrap on the way, as the inner loops' do; the finished sum fits.
          bias[k] = static_cast<int32_t>(static_cast<uint32_t>(bias[k]) -
                                         static_cast<uint32_t>(zero_point * w));
        }
      }
    }
  }

  void PackPhase(const std::vector<Axis::Tap>& rows, const std::vector<Axis::Tap>& columns) {
    filters.phase_offset.push_back(filters.weights.size());
    for (int32_t block = 0; block < shape.blocks(); ++block) {
      std::array<int32_t, kBlockChannels> bias{};
      for (int32_t k = 0; k < kBlockChannels; ++k) {
        bias[static_cast<size_t>(k)] = PerChannel(node.bias, block, k);
      }
      for (const auto& row : rows) {
        for (const auto& column : columns) PackTap(block, row.tap, column.tap, bias.data());
      }
      filters.bias.insert(filters.bias.end(), bias.begin(), bias.end());
    }
  }

  template <typename T>
  T PerChannel(const std::vector<T>& values, int32_t block, int32_t k) const {
    const int32_t in_group = block % shape.group_blocks() * kBlockChannels + k;
    const int32_t group = block / shape.group_blocks();
    if (in_group >= shape.group_outputs) return T{0};
    return values[static_cast<size_t>(group * shape.group_outputs + in_group)];
  }
};

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Shape& shape,
                                    const Axis& down, const Axis& across) {
  if (auto shared = SharedFilters(blueprint)) return shared;
  auto filters = std::make_shared<Filters>();
  filters->weights.reserve(static_cast<size_t>(shape.blocks()) * static_cast<size_t>(shape.taps()) *
                           static_cast<size_t>(shape.quads() * kQuadBytes));
  Packer packer{blueprint.node, shape, blueprint.input(0).zero_point, *filters};
  for (const auto& rows : down.taps) {
    for (const auto& columns : across.taps) packer.PackPhase(rows, columns);
  }
  for (int32_t block = 0; block < shape.blocks(); ++block) {
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      filters->multiplier.push_back(packer.PerChannel(blueprint.node.multiplier, block, k));
    }
  }
  return ShareFilters(blueprint, std::move(filters));
}

class Convolution final : public Kernel {
 public:
  Convolution(const Blueprint& blueprint, const Shape& shape, Axis down, Axis across,
              const Rounding& rounding)
      : loops_(blueprint.loops),
        shape_(shape),
        down_(std::move(down)),
        across_(std::move(across)),
        rounding_(rounding),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        filters_(Pack(blueprint, shape, down_, across_)),
        padding_(static_cast<size_t>(shape.group_inputs), static_cast<uint8_t>(in_.zero_point)) {}

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return filters_->bytes() + padding_.size(); }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    Range blocks{0, shape_.blocks()};
    Area area{{rows.first, rows.first + rows.count}, {0, out_.width}};
    if (rows.count >= part.count || out_.width >= part.count * kTilePixels) {
      area = ShareArea(rows, out_.width, part);
    } else {
      blocks = Share(shape_.blocks(), part);
    }
    for (int32_t down = 0; down < down_.phases; ++down) {
      for (int32_t across = 0; across < across_.phases; ++across) {
        for (int32_t block = blocks.first; block < blocks.stop; ++block) {
          RunBlock(memory, {down, across, block}, area);
        }
      }
    }
  }

 private:
  // One block of output channels in one phase of rows and columns.
  struct Task {
    int32_t down, across, block;
  };

  void RunBlock(const Memory& memory, Task task, const Area& area) const {
    for (int32_t row = area.rows.first; row < area.rows.stop; ++row) {
      if (down_.Phase(row) == task.down) RunRow(memory, task, row, area.columns);
    }
  }

  void RunRow(const Memory& memory, Task task, int32_t row, Range columns) const {
    const auto& taps = down_.taps[static_cast<size_t>(task.down)];
    const MapView& input = memory.maps[input_];
    const int32_t group = task.block / shape_.group_blocks();
    const uint8_t* rows[kMaxKernelRows];
    for (size_t t = 0; t < taps.size(); ++t) {
      const int32_t place = down_.Base(row) + taps[t].offset;
      const bool inside = place >= 0 && place < in_.height;
      rows[t] = inside ? input.Row(place) + group * shape_.group_inputs : nullptr;
    }
    int32_t first = columns.first;
    while (first < columns.stop && across_.Phase(first) != task.across) ++first;
    const int32_t step = across_.phases;
    for (; first < columns.stop; first += kTilePixels * step) {
      const int32_t left = (columns.stop - first + step - 1) / step;
      RunTile(memory, task, rows, row, first, std::min(left, kTilePixels));
    }
  }

  void RunTile(const Memory& memory, Task task, const uint8_t* const* rows, int32_t row,
               int32_t first, int32_t pixel_count) const {
    const size_t phase = static_cast<size_t>(task.down * across_.phases + task.across);
    const auto& down = down_.taps[static_cast<size_t>(task.down)];
    const auto& across = across_.taps[static_cast<size_t>(task.across)];
    const size_t tap_bytes = static_cast<size_t>(shape_.quads() * kQuadBytes);
    const auto block = static_cast<size_t>(task.block);
    const int8_t* weights = filters_->weights.data() + filters_->phase_offset[phase] +
                            block * down.size() * across.size() * tap_bytes;
    const size_t blocks = static_cast<size_t>(shape_.blocks());
    const int32_t* bias = filters_->bias.data() + (phase * blocks + block) * kBlockChannels;
    alignas(64) int32_t sums[kTilePixels * kBlockChannels];
    for (int32_t p = 0; p < kTilePixels; ++p) {
      std::copy_n(bias, kBlockChannels, sums + p * kBlockChannels);
    }
    const uint8_t* pixels[kChunkTaps * kTilePixels];
    int32_t taps = 0;
    const auto flush = [&] {
      loops_.dot(pixels, pixel_count, taps, shape_.group_inputs, weights, sums);
      weights += static_cast<size_t>(taps) * tap_bytes;
      taps = 0;
    };
    const int32_t base = across_.Base(first);
    for (size_t r = 0; r < down.size(); ++r) {
      for (const auto& column : across) {
        FindPixels(memory, rows[r], base + column.offset, pixels + taps * kTilePixels);
        if (++taps == kChunkTaps) flush();
      }
    }
    if (taps > 0) flush();
    Store(memory, task, row, first, pixel_count, sums);
  }

  // Where the tile's 8 pixels lie under one tap; places outside of the map are padding.
  void FindPixels(const Memory& memory, const uint8_t* row, int32_t place,
                  const uint8_t** pixels) const {
    const ptrdiff_t pixel_bytes = memory.maps[input_].pixel_bytes;
    const int32_t step = across_.transposed ? 1 : across_.stride;
    for (int32_t p = 0; p < kTilePixels; ++p, place += step) {
      const bool inside = row != nullptr && place >= 0 && place < in_.width;
      pixels[p] = inside ? row + place * pixel_bytes : padding_.data();
    }
  }

  void Store(const Memory& memory, Task task, int32_t row, int32_t first, int32_t pixel_count,
             const int32_t* sums) const {
    const MapView& output = memory.maps[output_];
    const int32_t group = task.block / shape_.group_blocks();
    const int32_t in_group = task.block % shape_.group_blocks() * kBlockChannels;
    const int32_t channel = group * shape_.group_outputs + in_group;
    const int32_t channels = std::min(kBlockChannels, shape_.group_outputs - in_group);
    const float* multiplier = filters_->multiplier.data() + task.block * kBlockChannels;
    const ptrdiff_t step = static_cast<ptrdiff_t>(output.pixel_bytes) * across_.phases;
    uint8_t* out = output.Row(row) + static_cast<ptrdiff_t>(first) * output.pixel_bytes;
    if (!out_.is_float) {
      loops_.finish(sums, pixel_count, channels, multiplier, rounding_, out + channel, step);
      return;
    }
    for (int32_t p = 0; p < pixel_count; ++p, sums += kBlockChannels, out += step) {
      auto* values = reinterpret_cast<float*>(out) + channel;
      for (int32_t k = 0; k < channels; ++k) {
        values[k] = static_cast<float>(sums[k]) * multiplier[k];
      }
    }
  }

  const Loops& loops_;
  Shape shape_;
  Axis down_;
  Axis across_;
  Rounding rounding_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  std::shared_ptr<const Filters> filters_;
  std::vector<uint8_t> padding_;
};

// Integers: the window, groups, low, high.
std::unique_ptr<const Kernel> Make(const Blueprint& blueprint, bool transposed) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(Window::kIntegers + 3);
  blueprint.NeedBytes(blueprint.input(0));
  const NodeDescription& node = blueprint.node;
  const Window window = ReadWindow(blueprint);
  const int32_t groups = node.integers[10];
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.Need(groups >= 1 && in.channels % groups == 0 && out.channels % groups == 0,
                 "groups that divide its channels, got " + std::to_string(groups));
  const Shape shape{groups, in.channels / groups, out.channels / groups, window.kernel[0],
                    window.kernel[1]};
  const size_t filter_bytes =
      static_cast<size_t>(shape.group_inputs) * static_cast<size_t>(shape.taps());
  blueprint.Need(shape.kernel_rows <= kMaxKernelRows,
                 "at most 256 filter rows, got " + std::to_string(shape.kernel_rows));
  CheckFilters(blueprint, filter_bytes);
  const auto axis = transposed ? Axis::Transposed : Axis::Sliding;
  return std::make_unique<Convolution>(
      blueprint, shape,
      axis(window.kernel[0], window.stride[0], window.dilation[0], window.pads[0]),
      axis(window.kernel[1], window.stride[1], window.dilation[1], window.pads[1]),
      RoundThenShift(out.zero_point, node.integers[11], node.integers[12]));
}

bool IsDepthwise(const Blueprint& blueprint) {
  constexpr int64_t kMostTaps = 1024;
  const auto& integers = blueprint.node.integers;
  if (blueprint.node.inputs.size() != 1 || integers.size() != Window::kIntegers + 3) return false;
  const int32_t groups = integers[10];
  return groups > 1 && groups == blueprint.input(0).channels &&
         groups == blueprint.output().channels && !blueprint.output().is_float &&
         int64_t{integers[0]} * integers[1] <= kMostTaps;
}

}  // namespace

std::unique_ptr<const Kernel> MakeConv(const Blueprint& blueprint) {
  return IsDepthwise(blueprint) ? MakeDepthwise(blueprint) : Make(blueprint, false);
}

std::unique_ptr<const Kernel> MakeConvTranspose(const Blueprint& blueprint) {
  return Make(blueprint, true);
}

}  // namespace thinmaps
