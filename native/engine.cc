// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <cfenv>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "shares.h"

namespace thinmaps {
namespace {

constexpr size_t kAlignment = 64;

// Rounds to nearest, with denormals, whatever the caller has set for his own arithmetic.
class StandardArithmetic {
 public:
  StandardArithmetic() {
    std::fegetenv(&caller_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~StandardArithmetic() { std::fesetenv(&caller_); }
  StandardArithmetic(const StandardArithmetic&) = delete;
  StandardArithmetic& operator=(const StandardArithmetic&) = delete;

 private:
  std::fenv_t caller_;
};

// Pages that the system hands out when they are first touched.
uint8_t* Zeros(size_t bytes) {
  void* block = std::calloc(bytes, 1);
  if (block == nullptr) throw std::bad_alloc();
  return static_cast<uint8_t*>(block);
}

uint8_t* Aligned(uint8_t* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return pointer + (kAlignment - address % kAlignment) % kAlignment;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, int32_t threads, bool prefault)
    : model_(std::move(model)),
      storage_(Zeros(static_cast<size_t>(model_->arena_bytes()) + kAlignment), std::free),
      arena_(Aligned(storage_.get())),
      views_(model_->ViewsIn(arena_)),
      encoded_bytes_(model_->maps().size()),
      overflows_(model_->maps().size()),
      shares_(SharesOfSteps(*model_, threads)),
      team_(threads) {
  if (prefault) std::memset(arena_, 0, static_cast<size_t>(model_->arena_bytes()));
}

void Engine::Run(std::span<const External> externals, int32_t first, int32_t stop) {
  for (const External& external : externals) {
    MapView& view = views_[static_cast<size_t>(external.map)];
    view.base = external.base;
    view.slots = external.slots;
  }
  if (first == 0) {
    std::fill(encoded_bytes_.begin(), encoded_bytes_.end(), 0);
    std::fill(overflows_.begin(), overflows_.end(), 0);
  }
  first_ = first;
  const StandardArithmetic standard;
  const auto run_step = [](void* self, int32_t item, Part part) {
    auto* engine = static_cast<Engine*>(self);
    engine->RunStep(engine->first_ + item, part);
  };
  const std::span<const uint8_t> shares(shares_);
  team_.Run(shares.subspan(static_cast<size_t>(first), static_cast<size_t>(stop - first)), run_step,
            this);
}

void Engine::RunStep(int32_t step, Part part) {
  const Memory memory{arena_, views_.data(), encoded_bytes_.data(), overflows_.data()};
  const StepDescription& work = model_->steps()[static_cast<size_t>(step)];
  model_->kernel(work.node).Run(memory, {work.first, work.rows}, part);
}

}  // namespace thinmaps
