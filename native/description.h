// SPDX-License-Identifier: Apache-2.0
// A plan in plain data, as it is handed over from Python: nothing here has been checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thinmaps {

// `slots * slot_bytes` bytes of the arena.
struct BufferDescription {
  int64_t offset = 0;
  int64_t slot_bytes = 0;
  int32_t slots = 0;
};

// A map and where its rows live: row r in slot r / unit_rows % slots of a buffer of the arena, or
// with the caller (buffer -1). pixel_bytes is 0 for an encoded map.
struct MapDescription {
  std::string name;
  int32_t height = 0;
  int32_t width = 0;
  int32_t channels = 0;
  float scale = 1.0f;
  int32_t zero_point = 0;
  bool is_float = false;
  int32_t buffer = -1;
  int32_t channel = 0;
  int32_t pixel_bytes = 0;
  int32_t unit_rows = 1;
};

// A node. `integers` are the operator's whole-number fields in the order its kernel reads them;
// the tensors are those of the operator of the same name in graph/operators.py.
struct NodeDescription {
  std::string name;
  std::string op;
  std::vector<int32_t> inputs;  // indices of maps
  int32_t output = -1;
  int32_t state = -1;  // index of the buffer of its running sums or scratch
  std::vector<int32_t> integers;
  std::span<const int8_t> weights;  // of the caller's, read while the kernel is made
  std::vector<int32_t> bias;
  std::vector<float> multiplier;
  std::vector<uint8_t> table;
  std::string codec_id;
  // Of a convolution with scratch: steps that need so many rows of a tile, on average, go by
  // Winograd's algorithm, thinner ones directly; 0 where scratch is for skipping zero squares.
  int32_t winograd_rows = 0;
};

struct StepDescription {
  int32_t node = 0;
  int32_t first = 0;
  int32_t rows = 0;
  int32_t nanoseconds = 0;  // that it may take: whether threads share it depends on this
};

struct Description {
  int64_t arena_bytes = 0;
  std::vector<BufferDescription> buffers;
  std::vector<MapDescription> maps;
  std::vector<NodeDescription> nodes;
  std::vector<StepDescription> steps;
};

}  // namespace thinmaps
