// SPDX-License-Identifier: Apache-2.0
#include "filter_maker.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace thinmaps {
namespace {

constexpr size_t kFirstCode = Window::kIntegers + 3;
constexpr int32_t kMostCodes = 9;
constexpr int32_t kMostShift = 4;
constexpr int64_t kAlignment = 64;

// Coefficients [block][quad][code][16][4], from (k, c, codes).
void PackCoefficients(const Blueprint& blueprint, const Shape& shape, int32_t codes,
                      Filters& filters) {
  const auto count = static_cast<size_t>(codes);
  const auto inputs = static_cast<size_t>(shape.group_inputs);
  const auto blocks = static_cast<size_t>(shape.blocks());
  filters.weights.assign(blocks * inputs * count * kBlockChannels, 0);
  int8_t* to = filters.weights.data();
  for (int32_t block = 0; block < shape.blocks(); ++block) {
    const int32_t first = block % shape.group_blocks() * kBlockChannels;
    const int32_t base = block / shape.group_blocks() * shape.group_outputs + first;
    const int32_t channels = std::min(kBlockChannels, shape.group_outputs - first);
    for (size_t quad = 0; quad < inputs / kQuad; ++quad) {
      for (size_t code = 0; code < count; ++code, to += kQuadBytes) {
        for (int32_t i = 0; i < channels * kQuad; ++i) {
          const auto output = static_cast<size_t>(base + i / kQuad);
          const size_t input = quad * kQuad + static_cast<size_t>(i % kQuad);
          to[i] = blueprint.node.weights[(output * inputs + input) * count + code];
        }
      }
    }
  }
}

}  // namespace

FilterMaker::FilterMaker(const Blueprint& blueprint, const Shape& shape, const Phase& phase)
    : loops_(blueprint.loops),
      quads_(shape.group_inputs / kQuad),
      codes_(static_cast<int32_t>(blueprint.node.integers.size() - kFirstCode) / kTaps),
      block_bytes_(phase.block_bytes),
      has_gaps_(false) {
  CheckCodes(blueprint, shape);
  FindPlaces(phase);
  const auto state = static_cast<size_t>(blueprint.node.state);
  const auto& buffers = blueprint.description.buffers;
  const bool fits = blueprint.node.state >= 0 && state < buffers.size() &&
                    buffers[state].slots == 1 && buffers[state].offset % kAlignment == 0 &&
                    buffers[state].slot_bytes >= block_bytes_;
  blueprint.Need(fits, "scratch of " + std::to_string(block_bytes_) +
                           " bytes or more for the filters that it makes");
  scratch_ = buffers[state];
  held_ = Pack(blueprint, shape);
}

void FilterMaker::CheckCodes(const Blueprint& blueprint, const Shape& shape) const {
  const NodeDescription& node = blueprint.node;
  const bool counts = (node.integers.size() - kFirstCode) % kTaps == 0 && codes_ >= 1 &&
                      codes_ <= kMostCodes && shape.group_inputs % kQuad == 0 &&
                      shape.kernel_rows == 3 && shape.kernel_columns == 3;
  blueprint.Need(counts, "1 to 9 codes of 9 elements, 3x3 filters, inputs of a group in fours");
  const auto outputs = static_cast<size_t>(shape.groups * shape.group_outputs);
  const size_t coefficients =
      outputs * static_cast<size_t>(shape.group_inputs) * static_cast<size_t>(codes_);
  blueprint.Need(
      node.weights.size() == coefficients,
      std::to_string(coefficients) + " coefficients, got " + std::to_string(node.weights.size()));
  blueprint.Need(node.bias.size() == outputs && node.multiplier.size() == outputs &&
                     node.table.size() == outputs,
                 "a bias, a multiplier and a shift per output channel");
  const bool small = std::all_of(node.table.begin(), node.table.end(),
                                 [](uint8_t shift) { return shift <= kMostShift; });
  const bool signs = std::all_of(node.integers.begin() + kFirstCode, node.integers.end(),
                                 [](int32_t sign) { return sign >= -1 && sign <= 1; });
  blueprint.Need(small && signs, "codes of -1, 0 and 1 and shifts of at most 4");
}

// Inputs come in quads, so that within a tap filters lie without gaps, wherever pieces end.
void FilterMaker::FindPlaces(const Phase& phase) {
  size_t filled = 0;
  const Source* source = phase.sources.data();
  for (const Piece& piece : phase.pieces) {
    for (int32_t i = 0; i < piece.bytes; ++i, ++source) {
      if (source->channel != 0) continue;
      const auto tap = static_cast<size_t>(source->tap_row * 3 + source->tap_column);
      places_[tap] = piece.filters + ptrdiff_t{i} * kBlockChannels;
    }
    filled += static_cast<size_t>(piece.bytes) * kBlockChannels;
    QuadOrder order{};
    for (; order.quads * kQuad < piece.bytes; ++order.quads) {
      order.offset[order.quads] = static_cast<uint8_t>(order.quads * kQuad);
    }
    orders_.push_back(order);
  }
  has_gaps_ = filled != static_cast<size_t>(block_bytes_);
}

// All filters are made once, block by block, to fold the zero point and to see how far sums reach.
std::shared_ptr<const Filters> FilterMaker::Pack(const Blueprint& blueprint,
                                                 const Shape& shape) const {
  const NodeDescription& node = blueprint.node;
  const int32_t shift = blueprint.conv_loops.shift;
  const std::string layout = shift != 0 ? "coefficients, shifted" : "coefficients";
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  PackCoefficients(blueprint, shape, codes_, *filters);
  filters->codes.assign(node.integers.begin() + kFirstCode, node.integers.end());
  std::vector<int8_t, LineAllocator<int8_t>> made(static_cast<size_t>(block_bytes_));
  const int32_t zero_point = blueprint.input(0).zero_point - shift;
  for (int32_t block = 0; block < shape.blocks(); ++block) {
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      filters->shift.push_back(PerChannel(node.table, shape, block, k));
      filters->multiplier.push_back(PerChannel(node.multiplier, shape, block, k));
    }
    MakeBlock(*filters, block, made.data());
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      const int32_t bias = PerChannel(node.bias, shape, block, k);
      int64_t sum = 0;
      int64_t reach = std::abs(int64_t{bias});
      for (size_t i = static_cast<size_t>(k) * kQuad; i < made.size(); i += kQuadBytes) {
        for (size_t c = i; c < i + kQuad; ++c) {
          sum += made[c];
          reach += 255 * std::abs(int64_t{made[c]});
        }
      }
      blueprint.Need(reach < int64_t{1} << 31, "sums that fit 32 bits");
      filters->bias.push_back(static_cast<int32_t>(bias - zero_point * sum));
    }
  }
  return ShareFilters(blueprint, layout, std::move(filters));
}

void FilterMaker::Make(int32_t block, int8_t* to) const { MakeBlock(*held_, block, to); }

void FilterMaker::MakeBlock(const Filters& held, int32_t block, int8_t* to) const {
  if (has_gaps_) std::memset(to, 0, static_cast<size_t>(block_bytes_));
  const ptrdiff_t block_coefficients = ptrdiff_t{quads_} * codes_ * kQuadBytes;
  loops_.make_filters({
      .coefficients = held.weights.data() + block * block_coefficients,
      .quads = quads_,
      .codes = codes_,
      .code = held.codes.data(),
      .shift = held.shift.data() + block * kBlockChannels,
      .places = places_.data(),
      .filters = to,
  });
}

}  // namespace thinmaps
