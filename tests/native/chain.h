// SPDX-License-Identifier: Apache-2.0
// Small networks for the tests of the core without Python: the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "description.h"

namespace thinmaps {

// The generator of Numerical Recipes: the same numbers everywhere.
class Numbers {
 public:
  explicit Numbers(uint32_t seed = 2026) : state_(seed) {}

  int32_t Next(int32_t low, int32_t high) {
    state_ = state_ * 1664525u + 1013904223u;
    return low + static_cast<int32_t>((state_ >> 8) % static_cast<uint32_t>(high - low + 1));
  }
  template <typename T>
  std::vector<T> Many(size_t count, int32_t low, int32_t high) {
    std::vector<T> values;
    for (size_t i = 0; i < count; ++i) values.push_back(static_cast<T>(Next(low, high)));
    return values;
  }

 private:
  uint32_t state_;
};

struct Shape {
  int32_t height, width, channels;
};

constexpr int32_t kNanoseconds = 1 << 30;  // of a step: threads share all of them

// A chain of nodes, each with a buffer of its own and all its rows in one step.
class Chain {
 public:
  int32_t Map(Shape shape, int32_t zero_point, bool with_the_caller = false,
              bool is_float = false) {
    MapDescription map;
    map.name = "map " + std::to_string(description.maps.size());
    map.height = shape.height;
    map.width = shape.width;
    map.channels = shape.channels;
    map.zero_point = zero_point;
    map.is_float = is_float;
    map.pixel_bytes = shape.channels * (is_float ? 4 : 1);
    if (!with_the_caller) map.buffer = Buffer(shape.height, shape.width * shape.channels);
    description.maps.push_back(map);
    return static_cast<int32_t>(description.maps.size()) - 1;
  }

  int32_t Buffer(int32_t slots, int64_t slot_bytes) {
    description.buffers.push_back({description.arena_bytes, slot_bytes, slots});
    description.arena_bytes += (slots * slot_bytes + 127) / 64 * 64;
    return static_cast<int32_t>(description.buffers.size()) - 1;
  }

  // Appends a node and the step that does all of its work rows.
  int32_t Node(NodeDescription node, std::vector<int32_t> inputs, int32_t output) {
    const auto rows = node.op == "mean" ? description.maps[static_cast<size_t>(inputs[0])].height
                                        : description.maps[static_cast<size_t>(output)].height;
    node.name = "node " + std::to_string(description.nodes.size());
    node.inputs = std::move(inputs);
    node.output = output;
    description.steps.push_back(
        {static_cast<int32_t>(description.nodes.size()), 0, rows, kNanoseconds});
    description.nodes.push_back(std::move(node));
    return output;
  }

  NodeDescription Filters(const std::string& op, std::vector<int32_t> integers, int32_t outputs,
                          int32_t weights_per_output) {
    NodeDescription node;
    node.op = op;
    node.integers = std::move(integers);
    const auto count = static_cast<size_t>(outputs);
    const auto weights = count * static_cast<size_t>(weights_per_output);
    node.weights = kept.emplace_back(numbers.Many<int8_t>(weights, -128, 127));
    node.bias = numbers.Many<int32_t>(count, -4000, 4000);
    node.multiplier.assign(count, 1.0f / 1024);
    return node;
  }

  NodeDescription Plain(const std::string& op, std::vector<int32_t> integers,
                        std::vector<float> multiplier = {}) {
    NodeDescription node;
    node.op = op;
    node.integers = std::move(integers);
    node.multiplier = std::move(multiplier);
    return node;
  }

  Description description;
  Numbers numbers;
  std::deque<std::vector<int8_t>> kept;  // what `description` has views of
};

}  // namespace thinmaps
