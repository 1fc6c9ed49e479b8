// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace thinmaps {
namespace {

constexpr int32_t kLargestExtent = 1 << 20;
constexpr int64_t kLargestBytes = int64_t{1} << 46;

void Need(bool holds, const std::string& sentence) {
  if (!holds) throw std::invalid_argument(sentence);
}

bool Within(int64_t index, size_t count) {
  return index >= 0 && static_cast<size_t>(index) < count;
}

void CheckBuffers(const Description& description) {
  Need(description.arena_bytes >= 0 && description.arena_bytes <= kLargestBytes,
       "the arena's size is impossible: " + std::to_string(description.arena_bytes) + " bytes");
  for (size_t i = 0; i < description.buffers.size(); ++i) {
    const auto& buffer = description.buffers[i];
    const bool sane = buffer.offset >= 0 && buffer.offset <= kLargestBytes && buffer.slots >= 1 &&
                      buffer.slots <= kLargestExtent && buffer.slot_bytes >= 1 &&
                      buffer.slot_bytes <= kLargestBytes / buffer.slots;
    Need(sane && buffer.offset + buffer.slots * buffer.slot_bytes <= description.arena_bytes,
         "buffer " + std::to_string(i) + " does not lie in the arena of " +
             std::to_string(description.arena_bytes) + " bytes");
  }
}

void CheckPlace(const Description& description, const MapDescription& map) {
  const std::string name = "map '" + map.name + "' ";
  Need(Within(map.buffer, description.buffers.size()), name + "lives in no buffer");
  Need(!map.is_float, name + "lives in the arena but is float32");
  Need(map.unit_rows >= 1 && map.channel >= 0 && map.pixel_bytes >= 0,
       name + "has a negative place or empty units");
  if (map.pixel_bytes == 0) return;  // encoded: checked where it is encoded and decoded
  const auto& buffer = description.buffers[static_cast<size_t>(map.buffer)];
  Need(map.unit_rows == 1, name + "has raw rows in units");
  Need(int64_t{map.channel} + map.channels <= map.pixel_bytes &&
           int64_t{map.width} * map.pixel_bytes <= buffer.slot_bytes,
       name + "does not fit the slots of its buffer");
}

void CheckMaps(const Description& description) {
  for (const auto& map : description.maps) {
    const bool sane = map.height >= 1 && map.height <= kLargestExtent && map.width >= 1 &&
                      map.width <= kLargestExtent && map.channels >= 1 &&
                      map.channels <= kLargestExtent && map.zero_point >= 0 &&
                      map.zero_point <= 255 && map.scale > 0.0f;
    Need(sane, "map '" + map.name + "' has impossible sizes or quantisation");
    Need(int64_t{map.width} * map.channels * 4 < (int64_t{1} << 31),
         "map '" + map.name + "' has rows of more than 2 GiB");
    if (map.buffer != -1) CheckPlace(description, map);
  }
}

}  // namespace

Model::Model(Description description, Isa isa, PackedWeights& packed)
    : description_(std::move(description)), isa_(isa) {
  auto nodes = std::exchange(description_.nodes, {});
  const auto steps = std::exchange(description_.steps, {});
  CheckBuffers(description_);
  CheckMaps(description_);
  for (auto& node : nodes) Add(std::exchange(node, {}), packed);
  for (const auto& step : steps) Add(step);
}

void Model::Add(const NodeDescription& node, PackedWeights& packed) {
  bool wired = Within(node.output, description_.maps.size());
  for (const int32_t input : node.inputs) wired &= Within(input, description_.maps.size());
  Need(wired, "node '" + node.name + "' is wired to a map that does not exist");
  kernels_.push_back(
      MakeKernel({description_, node, LoopsFor(isa_), ConvLoopsFor(isa_), SparseLoopsFor(isa_),
                  TileLoopsFor(isa_), WinogradExactLoopsFor(isa_), packed}));
  names_.push_back(node.name);
}

void Model::Add(const StepDescription& step) {
  Need(Within(step.node, kernels_.size()),
       "a step names node " + std::to_string(step.node) + ", which does not exist");
  const Kernel& work = kernel(step.node);
  const int64_t stop = int64_t{step.first} + step.rows;
  const bool inside = step.first >= 0 && step.rows >= 1 && stop <= work.work_rows();
  const bool whole = step.first % work.step_rows() == 0 &&
                     (stop % work.step_rows() == 0 || stop == work.work_rows());
  Need(inside && whole, "a step of node '" + names_[static_cast<size_t>(step.node)] +
                            "' does rows " + std::to_string(step.first) + " to " +
                            std::to_string(stop) +
                            ", which it does not have or which cut a coding unit");
  Need(step.nanoseconds >= 0, "a step takes a negative time");
  description_.steps.push_back(step);
}

size_t Model::weights_bytes() const {
  size_t bytes = 0;
  for (const auto& kernel : kernels_) bytes += kernel->weights_bytes();
  return bytes;
}

std::vector<MapView> Model::ViewsIn(uint8_t* arena) const {
  std::vector<MapView> views;
  for (const auto& map : description_.maps) {
    MapView view;
    view.unit_rows = map.unit_rows;
    view.pixel_bytes = map.buffer == -1 ? map.channels * (map.is_float ? 4 : 1) : map.pixel_bytes;
    if (map.buffer != -1) {
      const auto& buffer = description_.buffers[static_cast<size_t>(map.buffer)];
      view.base = arena + buffer.offset + map.channel;
      view.slot_bytes = buffer.slot_bytes;
      view.slots = buffer.slots;
    } else {
      view.slot_bytes = int64_t{map.width} * view.pixel_bytes;
      view.slots = map.height;
    }
    views.push_back(view);
  }
  return views;
}

}  // namespace thinmaps
