// SPDX-License-Identifier: Apache-2.0
// Runs a model: one arena, one team of threads. Allocates when made, never when it runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model.h"
#include "team.h"

namespace thinmaps {

// The caller's memory for one of a model's inputs or outputs: row r in slot r % slots.
struct External {
  int32_t map = -1;
  uint8_t* base = nullptr;
  int32_t slots = 0;
};

class Engine {
 public:
  // With `prefault` every page of the arena is touched here, not in the first run.
  Engine(std::shared_ptr<const Model> model, int32_t threads, bool prefault = false);

  const Model& model() const { return *model_; }
  const uint8_t* arena() const { return arena_; }

  // Bytes stored in each encoded map since step 0 was last run, lengths of payloads counted.
  std::span<const int64_t> encoded_bytes() const { return encoded_bytes_; }

  // Units of each encoded map that passed their cap in that time; 0 for codecs without one.
  std::span<const int64_t> overflows() const { return overflows_; }

  // Runs steps first .. stop - 1. Every input and output of the model must be among `externals`
  // (the caller checks that, and their sizes). One run at a time.
  // Results do not depend on the caller's rounding mode, which is restored.
  void Run(std::span<const External> externals, int32_t first, int32_t stop);

 private:
  void RunStep(int32_t step, Part part);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<uint8_t, void (*)(void*)> storage_;
  uint8_t* arena_;
  std::vector<MapView> views_;
  std::vector<int64_t> encoded_bytes_;
  std::vector<int64_t> overflows_;
  std::vector<uint8_t> shares_;  // of each step
  Team team_;
  int32_t first_ = 0;  // step of a run
};

}  // namespace thinmaps
