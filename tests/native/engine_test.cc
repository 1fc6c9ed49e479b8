// SPDX-License-Identifier: Apache-2.0
// The core without Python: one small network over most operators, on every instruction set and
// thread count, must give the bytes whose hash is frozen below.
//
// tests/run holds the engine to the definition in NumPy on machines that have Python; this holds
// every other machine, compiler and sanitizer (leaks included) to the same bytes.
#include "engine.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chain.h"
#include "isa.h"
#include "model.h"

namespace thinmaps {
namespace {

constexpr uint64_t kFrozen = 0xf18353b4c1dead63u;

// Of the chain of nodes that are drawn here.
Description Draw(Chain& chain) {
  const int32_t picture = chain.Map({19, 21, 3}, 0, true);
  const int32_t head = chain.Map({1, 1, 10}, 0, true, true);
  NodeDescription start = chain.Plain("picture", {2, 0, 1});
  start.table = chain.numbers.Many<uint8_t>(3 * 256, 0, 255);
  int32_t x = chain.Node(start, {picture}, chain.Map({19, 21, 3}, 117));
  // Integers: kernel, stride, dilation, pads (top, left, bottom, right), groups, low, high.
  x = chain.Node(chain.Filters("conv", {3, 3, 2, 1, 1, 2, 1, 2, 1, 2, 1, 0, 255}, 20, 27), {x},
                 chain.Map({10, 21, 20}, 0));
  const int32_t skip = x;
  x = chain.Node(chain.Filters("conv", {3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 20, 0, 255}, 20, 9), {x},
                 chain.Map({10, 21, 20}, 33));
  x = chain.Node(chain.Plain("add", {5, 250}, {0.5f, 1.0f}), {skip, x}, chain.Map({10, 21, 20}, 9));
  x = chain.Node(chain.Filters("conv", {1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 2, 0, 200}, 34, 10), {x},
                 chain.Map({10, 21, 34}, 4));
  x = chain.Node(chain.Plain("max_pool", {2, 3, 2, 2, 1, 1, 0, 1, 0, 1}), {x},
                 chain.Map({5, 11, 34}, 4));
  x = chain.Node(
      chain.Filters("conv_transpose", {3, 2, 2, 3, 1, 1, 1, 0, 0, 0, 1, 0, 255}, 5, 34 * 6), {x},
      chain.Map({10, 32, 5}, 91));
  std::vector<float> divisors;
  for (int32_t n = 0; n <= 9; ++n) divisors.push_back(1.5f / static_cast<float>(n > 0 ? n : 1));
  x = chain.Node(chain.Plain("average_pool", {3, 3, 1, 2, 1, 1, 1, 1, 1, 1, 0}, divisors), {x},
                 chain.Map({10, 16, 5}, 77));
  NodeDescription mean = chain.Plain("mean", {}, {1.0f / 64});
  mean.state = chain.Buffer(1, 5 * 4);
  x = chain.Node(mean, {x}, chain.Map({1, 1, 5}, 12));
  chain.Node(chain.Filters("conv", {1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 255}, 10, 5), {x}, head);
  return chain.description;
}

uint64_t Hash(const uint8_t* bytes, size_t count) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < count; ++i) hash = (hash ^ bytes[i]) * 0x100000001B3u;
  return hash;
}

// The hash of every map, the arena's bytes at the end, and the head.
uint64_t Run(Isa isa, int32_t threads) {
  PackedWeights packed;
  Chain chain;
  Engine engine(std::make_shared<Model>(Draw(chain), isa, packed), threads);
  auto picture = Numbers().Many<uint8_t>(19 * 21 * 3, 0, 255);
  std::vector<float> head(10);
  auto* head_bytes = reinterpret_cast<uint8_t*>(head.data());
  const External externals[] = {{0, picture.data(), 19}, {1, head_bytes, 1}};
  const auto steps = static_cast<int32_t>(engine.model().steps().size());
  engine.Run(externals, 0, steps);
  const auto arena = static_cast<size_t>(engine.model().arena_bytes());
  return Hash(engine.arena(), arena) ^ Hash(head_bytes, head.size() * sizeof(float));
}

bool RefusesHostileSteps() {
  Chain chain;
  Description description = Draw(chain);
  description.steps.push_back({1, 10, 1, 0});
  PackedWeights packed;
  try {
    const Model model(std::move(description), Isa::kPortable, packed);
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

int Main() {
  int failures = 0;
  for (const Isa isa : kIsas) {
    if (!Runs(isa)) continue;
    for (const int32_t threads : {1, 2, 3, 8}) {
      const uint64_t hash = Run(isa, threads);
      if (hash == kFrozen) continue;
      ++failures;
      std::printf("%s, %d threads: %016llx instead of %016llx\n", NameOf(isa), threads,
                  static_cast<unsigned long long>(hash), static_cast<unsigned long long>(kFrozen));
    }
  }
  if (!RefusesHostileSteps()) {
    ++failures;
    std::printf("a step outside of its node was accepted\n");
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thinmaps

int main() { return thinmaps::Main(); }
