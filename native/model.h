// SPDX-License-Identifier: Apache-2.0
// A plan, checked and packed: once complete immutable, shared by any number of engines.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "description.h"
#include "isa.h"
#include "kernel.h"

namespace thinmaps {

class Model {
 public:
  // Checks everything that running relies on: after this, no step of this plan reads or writes
  // outside of the arena and the caller's buffers. (That every row is made before it is read is
  // plan.verify's business; a plan that breaks it computes nonsense, safely.) Takes filters that
  // `packed` has, and adds to it those it packs.
  // Throws std::invalid_argument with one sentence.
  Model(Description description, Isa isa, PackedWeights& packed);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // More nodes and steps, one by one, so that no two nodes' unpacked tensors need live at a time.
  void Add(const NodeDescription& node, PackedWeights& packed);
  void Add(const StepDescription& step);

  int64_t arena_bytes() const { return description_.arena_bytes; }
  size_t weights_bytes() const;
  const std::vector<MapDescription>& maps() const { return description_.maps; }
  const std::vector<StepDescription>& steps() const { return description_.steps; }
  const Kernel& kernel(int32_t node) const { return *kernels_[static_cast<size_t>(node)]; }

  // Views of all maps in an arena; those in the caller's buffers have no base yet.
  std::vector<MapView> ViewsIn(uint8_t* arena) const;

 private:
  Description description_;  // without its nodes
  Isa isa_;
  std::vector<std::string> names_;  // of the nodes
  std::vector<std::unique_ptr<const Kernel>> kernels_;
};

}  // namespace thinmaps
