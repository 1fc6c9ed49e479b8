// SPDX-License-Identifier: Apache-2.0
// WinogradConv (graph/operators.py): a convolution by tiles, in bytes, with transforms in integers.
//
// A step does whole rows of tiles, some tiles at a time: their inputs are transformed into bytes in
// scratch that the plan has set aside in the arena, then every block of 16 outputs multiplies them
// at all positions and transforms its sums. Threads that share a step split its tiles and the
// scratch. scaled_tile.h has the inner loops.
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "filters.h"
#include "scaled_tile.h"
#include "window.h"
#include "winograd_transforms.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostTiles = 8;  // that are done together
constexpr ptrdiff_t kLine = 64;
constexpr int64_t kTransformReach = 1 << 15;
constexpr int64_t kSumReach = int64_t{1} << 31;

size_t Size(int32_t count) { return static_cast<size_t>(count); }

int32_t WholeBlocks(int32_t channels) {
  return (channels + kBlockChannels - 1) / kBlockChannels * kBlockChannels;
}

// The integers of a node: window, rows of A^T and B^T, clamp, A^T, B^T, scales of inputs.
struct Constants {
  TileSet set;
  int32_t outputs, products, inputs, low, high;
  std::vector<int8_t> at, bt;
  std::vector<int16_t> scale;  // [position][channel], in whole blocks

  int32_t positions() const { return products * products; }
  TileMatrices matrices() const { return {set, outputs, products, inputs, at.data(), bt.data()}; }
};

std::vector<int8_t> Matrix(const Blueprint& blueprint, size_t first, int32_t count) {
  std::vector<int8_t> matrix;
  for (size_t i = first; i < first + Size(count); ++i) {
    const int32_t entry = blueprint.node.integers[i];
    blueprint.Need(entry >= -128 && entry <= 127, "matrices of int8");
    matrix.push_back(static_cast<int8_t>(entry));
  }
  return matrix;
}

// What a transform of a compiled set computes with, to see its matrix.
struct Whole {
  int32_t value;
  friend Whole operator+(Whole a, Whole b) { return {a.value + b.value}; }
  friend Whole operator-(Whole a, Whole b) { return {a.value - b.value}; }
};

// Whether a compiled set has these matrices: of a unit vector a transform makes its column.
template <class Set>
bool IsSet(const Constants& constants) {
  if (constants.outputs != Set::kOutputs || constants.products != Set::kProducts ||
      constants.inputs != Set::kInputs) {
    return false;
  }
  bool same = true;
  for (int32_t i = 0; i < Set::kInputs; ++i) {
    Whole in[Set::kInputs] = {};
    Whole out[Set::kProducts];
    in[i].value = 1;
    Set::InputTransform(in, 1, out, 1);
    for (int32_t a = 0; a < Set::kProducts; ++a) {
      same &= out[a].value == constants.bt[Size(a * Set::kInputs + i)];
    }
  }
  for (int32_t a = 0; a < Set::kProducts; ++a) {
    Whole in[Set::kProducts] = {};
    Whole out[Set::kOutputs];
    in[a].value = 1;
    Set::OutputTransform(in, 1, out, 1);
    for (int32_t i = 0; i < Set::kOutputs; ++i) {
      same &= out[i].value == constants.at[Size(i * Set::kProducts + a)];
    }
  }
  return same;
}

TileSet SetOf(const Constants& constants) {
  if (IsSet<F4x3Quadratic>(constants)) return TileSet::kF4x3Quadratic;
  return IsSet<F2x3>(constants) ? TileSet::kF2x3 : TileSet::kAny;
}

Constants ReadConstants(const Blueprint& blueprint, const Window& window) {
  constexpr size_t kFirst = Window::kIntegers + 4;
  const auto& integers = blueprint.node.integers;
  blueprint.Need(integers.size() >= kFirst, "a window, a tile and a clamp");
  Constants found{};
  found.outputs = integers[Window::kIntegers];
  found.products = integers[Window::kIntegers + 1];
  found.low = integers[Window::kIntegers + 2];
  found.high = integers[Window::kIntegers + 3];
  const int32_t taps = window.kernel[0];
  const bool sane = found.outputs >= 1 && found.outputs <= kMostTileOutputs &&
                    found.products >= 1 && found.products <= kMostTileProducts &&
                    taps <= kMostTileTaps && taps == window.kernel[1] && window.stride[0] == 1 &&
                    window.stride[1] == 1 && window.dilation[0] == 1 && window.dilation[1] == 1;
  blueprint.Need(sane, "a square window of stride 1 and tiles of at most 8 outputs a side");
  blueprint.Need(0 <= found.low && found.low <= found.high && found.high <= 255, "a clamp");
  found.inputs = found.outputs + taps - 1;
  const int32_t channels = blueprint.input(0).channels;
  const size_t scales = kFirst + Size(found.products * (found.outputs + found.inputs));
  blueprint.NeedIntegers(scales + Size(found.positions()) * Size(channels));
  found.at = Matrix(blueprint, kFirst, found.outputs * found.products);
  found.bt = Matrix(blueprint, kFirst + found.at.size(), found.products * found.inputs);
  found.set = SetOf(found);
  const int32_t whole = WholeBlocks(channels);
  found.scale.resize(Size(found.positions()) * Size(whole));
  for (int32_t p = 0; p < found.positions(); ++p) {
    for (int32_t c = 0; c < channels; ++c) {
      const int32_t scale = integers[scales + Size(p) * Size(channels) + Size(c)];
      blueprint.Need(scale >= 1 && scale < kTransformReach, "input scales of 1 to 32767");
      found.scale[Size(p) * Size(whole) + Size(c)] = static_cast<int16_t>(scale);
    }
  }
  return found;
}

// The sum of |row| over a row of a matrix, the largest of all rows.
int64_t RowReach(const std::vector<int8_t>& matrix, int32_t columns) {
  int64_t most = 0;
  for (size_t first = 0; first < matrix.size(); first += Size(columns)) {
    int64_t sum = 0;
    for (size_t i = first; i < first + Size(columns); ++i) sum += std::abs(matrix[i]);
    most = std::max(most, sum);
  }
  return most;
}

// Filters [block][position][quad][16][4], bias [block] of 16 biases and 16 offsets per position,
// multipliers [block] of 16 multipliers and 16 scales per position.
class TilePacker {
 public:
  TilePacker(const Blueprint& blueprint, const Constants& constants, Filters& filters)
      : node_(blueprint.node),
        constants_(constants),
        inputs_(blueprint.input(0).channels),
        outputs_(blueprint.output().channels),
        filters_(filters) {}

  void PackBlock(int32_t first) {
    const int32_t count = std::min(kBlockChannels, outputs_ - first);
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      const size_t channel = Size(first + k);
      filters_.bias.push_back(k < count ? node_.bias[channel] : 0);
      const size_t scales = Size(outputs_) * Size(constants_.positions());
      filters_.multiplier.push_back(k < count ? node_.multiplier[scales + channel] : 0.0f);
    }
    for (int32_t p = 0; p < constants_.positions(); ++p) PackPosition(first, count, p);
  }

 private:
  void PackPosition(int32_t first, int32_t count, int32_t position) {
    const size_t positions = Size(constants_.positions());
    const size_t start = filters_.weights.size();
    filters_.weights.resize(start + Size(WholeBlocks(inputs_)) * Size(kBlockChannels));
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      int32_t sum = 0;
      for (int32_t c = 0; k < count && c < inputs_; ++c) {
        const size_t filter = Size(first + k) * Size(inputs_) + Size(c);
        const int8_t weight = node_.weights[filter * positions + Size(position)];
        const int32_t to = (c / kQuad * kBlockChannels + k) * kQuad + c % kQuad;
        filters_.weights[start + Size(to)] = weight;
        sum += weight;
      }
      const size_t scale = Size(first + k) * positions + Size(position);
      filters_.bias.push_back(-kByteOffset * sum);
      filters_.multiplier.push_back(k < count ? node_.multiplier[scale] : 0.0f);
    }
  }

  const NodeDescription& node_;
  const Constants& constants_;
  int32_t inputs_;
  int32_t outputs_;
  Filters& filters_;
};

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Constants& constants) {
  const std::string layout = "tiles";
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  const int32_t outputs = blueprint.output().channels;
  filters->weights.reserve(Size(WholeBlocks(outputs)) * Size(constants.positions()) *
                           Size(WholeBlocks(blueprint.input(0).channels)));
  TilePacker packer{blueprint, constants, *filters};
  for (int32_t first = 0; first < outputs; first += kBlockChannels) packer.PackBlock(first);
  return ShareFilters(blueprint, layout, std::move(filters));
}

class ScaledWinograd final : public Kernel {
 public:
  ScaledWinograd(const Blueprint& blueprint, const Window& window, Constants constants)
      : loops_(blueprint.tile_loops),
        constants_(std::move(constants)),
        pads_{window.pads[0], window.pads[1]},
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        channels_(WholeBlocks(in_.channels)),
        rounding_(RoundThenShift(out_.zero_point, constants_.low, constants_.high)),
        padding_(Size(channels_), static_cast<uint8_t>(in_.zero_point)),
        scratch_(Scratch(blueprint)),
        filters_(Pack(blueprint, constants_)) {}

  int32_t work_rows() const override { return out_.height; }
  int32_t step_rows() const override { return constants_.outputs; }
  size_t weights_bytes() const override { return filters_->bytes(); }
  int32_t most_parts(Rows) const override {
    return static_cast<int32_t>(scratch_.slot_bytes / TileBytes());
  }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const int32_t top = rows.first / constants_.outputs;
    const int32_t down = Tiles(rows.first + rows.count) - top;
    const Range share = Share(down * Tiles(out_.width), part);
    const ptrdiff_t room = scratch_.slot_bytes / part.count / kLine * kLine;
    uint8_t* scratch = memory.arena + scratch_.offset + part.index * room;
    const auto fit = static_cast<int32_t>(std::min<ptrdiff_t>(room / TileBytes(), kMostTiles));
    for (int32_t first = share.first; first < share.stop; first += fit) {
      const int32_t stop = std::min(first + fit, share.stop);
      RunTiles(memory, top * Tiles(out_.width), {first, stop}, scratch);
    }
  }

 private:
  int32_t Tiles(int32_t extent) const {
    return (extent + constants_.outputs - 1) / constants_.outputs;
  }

  // Of scratch: bytes of all channels and sums of a block at every position.
  ptrdiff_t TileBytes() const {
    const ptrdiff_t bytes = channels_ + kBlockChannels * ptrdiff_t{sizeof(int32_t)};
    return (constants_.positions() * bytes + kLine - 1) / kLine * kLine;
  }

  const BufferDescription& Scratch(const Blueprint& blueprint) const {
    const auto state = static_cast<size_t>(blueprint.node.state);
    const auto& buffers = blueprint.description.buffers;
    const bool fits = blueprint.node.state >= 0 && state < buffers.size() &&
                      buffers[state].slots == 1 && buffers[state].slot_bytes >= TileBytes();
    blueprint.Need(fits, "scratch of " + std::to_string(TileBytes()) + " bytes or more");
    return buffers[state];
  }

  // Tiles are counted row by row, from tile `base` of the map on.
  void RunTiles(const Memory& memory, int32_t base, Range tiles, uint8_t* scratch) const {
    const int32_t count = tiles.stop - tiles.first;
    const int32_t positions = constants_.positions();
    auto* sums = reinterpret_cast<int32_t*>(scratch);
    uint8_t* bytes = scratch + ptrdiff_t{positions} * count * kBlockChannels * 4;
    const ptrdiff_t position_step = ptrdiff_t{count} * channels_;
    for (int32_t t = 0; t < count; ++t) {
      TransformInputs(memory, base + tiles.first + t, bytes + t * ptrdiff_t{channels_},
                      position_step);
    }
    for (int32_t k = 0; k < out_.channels; k += kBlockChannels) {
      const ptrdiff_t constants = ptrdiff_t{k} * (positions + 1);
      loops_.products({
          .positions = positions,
          .tiles = count,
          .channels = channels_,
          .bytes = bytes,
          .position_step = position_step,
          .weights = filters_->weights.data() + ptrdiff_t{k} * positions * channels_,
          .offset = filters_->bias.data() + constants + kBlockChannels,
          .scale = filters_->multiplier.data() + constants + kBlockChannels,
          .sums = sums,
      });
      for (int32_t t = 0; t < count; ++t) {
        TransformSums(memory, base + tiles.first + t, k, sums + t * kBlockChannels,
                      ptrdiff_t{count} * kBlockChannels);
      }
    }
  }

  void TransformInputs(const Memory& memory, int32_t tile, uint8_t* bytes,
                       ptrdiff_t position_step) const {
    const MapView& input = memory.maps[input_];
    const int32_t side = constants_.inputs;
    const int32_t top = tile / Tiles(out_.width) * constants_.outputs - pads_[0];
    const int32_t left = tile % Tiles(out_.width) * constants_.outputs - pads_[1];
    std::array<const uint8_t*, kMostTileInputs * kMostTileInputs> pixels;
    for (int32_t i = 0; i < side; ++i) {
      const bool inside = top + i >= 0 && top + i < in_.height;
      const uint8_t* row = inside ? input.Row(top + i) : nullptr;
      for (int32_t j = 0; j < side; ++j) {
        const bool real = inside && left + j >= 0 && left + j < in_.width;
        pixels[Size(i * side + j)] =
            real ? row + ptrdiff_t{left + j} * input.pixel_bytes : padding_.data();
      }
    }
    const TileMatrices matrices = constants_.matrices();
    loops_.inputs({
        .matrices = matrices,
        .pixels = pixels.data(),
        .channels = channels_,
        .zero_point = in_.zero_point,
        .scale = constants_.scale.data(),
        .bytes = bytes,
        .position_step = position_step,
    });
  }

  void TransformSums(const Memory& memory, int32_t tile, int32_t channel, const int32_t* sums,
                     ptrdiff_t position_step) const {
    const MapView& output = memory.maps[output_];
    const int32_t row = tile / Tiles(out_.width) * constants_.outputs;
    const int32_t column = tile % Tiles(out_.width) * constants_.outputs;
    const int32_t rows = std::min(constants_.outputs, out_.height - row);
    const ptrdiff_t constants = ptrdiff_t{channel} * (constants_.positions() + 1);
    std::array<uint8_t*, kMostTileOutputs> out;
    for (int32_t i = 0; i < rows; ++i) {
      out[Size(i)] = output.Row(row + i) + ptrdiff_t{column} * output.pixel_bytes + channel;
    }
    const TileMatrices matrices = constants_.matrices();
    loops_.outputs({
        .matrices = matrices,
        .sums = sums,
        .position_step = position_step,
        .bias = filters_->bias.data() + constants,
        .multiplier = filters_->multiplier.data() + constants,
        .rounding = rounding_,
        .rows = rows,
        .columns = std::min(constants_.outputs, out_.width - column),
        .channels = std::min(kBlockChannels, out_.channels - channel),
        .out = out.data(),
        .out_step = output.pixel_bytes,
    });
  }

  const TileLoops& loops_;
  Constants constants_;
  std::array<int32_t, 2> pads_;  // top, left
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  int32_t channels_;  // of the input, in whole blocks
  Rounding rounding_;
  std::vector<uint8_t> padding_;
  BufferDescription scratch_;
  std::shared_ptr<const Filters> filters_;
};

// The largest |Z| of every position of an output channel, for every input; throws where a sum of
// products or a Z could leave int32.
std::vector<int64_t> SumReaches(const Blueprint& blueprint, const Constants& constants, size_t k) {
  const auto inputs = Size(blueprint.input(0).channels);
  const auto positions = Size(constants.positions());
  std::vector<int64_t> reaches(positions);
  for (size_t c = 0; c < inputs; ++c) {
    for (size_t p = 0; p < positions; ++p) {
      const int32_t weight = blueprint.node.weights[(k * inputs + c) * positions + p];
      reaches[p] += kByteOffset * std::abs(weight);
    }
  }
  for (size_t p = 0; p < positions; ++p) {
    const float scale = blueprint.node.multiplier[k * positions + p];
    const float scaled = std::nearbyint(static_cast<float>(reaches[p]) * scale);
    blueprint.Need(
        scale >= 0.0f && reaches[p] < kSumReach && scaled < static_cast<float>(kSumReach),
        "products that fit 32 bits");
    reaches[p] = static_cast<int64_t>(scaled);
  }
  return reaches;
}

// No value can leave the integers that hold it, whatever the input (graph/winograd_bounds.py).
void CheckReaches(const Blueprint& blueprint, const Constants& constants) {
  const int64_t transform = RowReach(constants.bt, constants.inputs);
  blueprint.Need(255 * transform * transform < kTransformReach,
                 "transformed inputs that fit 16 bits");
  const auto products = Size(constants.products);
  for (size_t b = 0; b < products; ++b) {
    bool used = false;  // else sums on the way could be larger than those at the end
    for (size_t i = b; i < constants.at.size(); i += products) used |= constants.at[i] != 0;
    blueprint.Need(used, "outputs that use every product");
  }
  for (size_t k = 0; k < Size(blueprint.output().channels); ++k) {
    const auto reaches = SumReaches(blueprint, constants, k);
    for (size_t i = 0; i < constants.at.size(); i += products) {
      for (size_t j = 0; j < constants.at.size(); j += products) {
        int64_t reach = std::abs(int64_t{blueprint.node.bias[k]});
        for (size_t p = 0; p < reaches.size(); ++p) {
          const int32_t factor = constants.at[i + p / products] * constants.at[j + p % products];
          reach += std::abs(factor) * reaches[p];
        }
        blueprint.Need(reach < kSumReach, "sums that fit 32 bits; output channel " +
                                              std::to_string(k) + " reaches " +
                                              std::to_string(reach));
      }
    }
  }
}

}  // namespace

std::unique_ptr<const Kernel> MakeWinogradConv(const Blueprint& blueprint) {
  blueprint.NeedInputs(1);
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.NeedBytes(in);
  blueprint.NeedBytes(out);
  const Window window = ReadWindow(blueprint);
  Constants constants = ReadConstants(blueprint, window);
  const bool fits =
      in.height + window.pads[0] + window.pads[2] == out.height + window.kernel[0] - 1 &&
      in.width + window.pads[1] + window.pads[3] == out.width + window.kernel[1] - 1;
  blueprint.Need(fits, "an output of as many rows and columns as windows");
  const auto tiles = [&](int64_t extent) {
    return (extent + constants.outputs - 1) / constants.outputs;
  };
  blueprint.Need(tiles(out.height) * tiles(out.width) < kSumReach, "fewer than 2^31 tiles");
  const auto positions = Size(constants.positions());
  const auto outputs = Size(out.channels);
  const NodeDescription& node = blueprint.node;
  blueprint.Need(node.weights.size() == outputs * Size(in.channels) * positions &&
                     node.bias.size() == outputs &&
                     node.multiplier.size() == outputs * (positions + 1),
                 "weights and a scale per position, a bias and a multiplier per output channel");
  CheckReaches(blueprint, constants);
  return std::make_unique<ScaledWinograd>(blueprint, window, std::move(constants));
}

}  // namespace thinmaps
