// SPDX-License-Identifier: Apache-2.0
#include "team.h"

#include <unistd.h>

namespace thinmaps {
namespace {

// Waits until `value` is no longer `old`: briefly awake, because steps are short, then asleep.
void WaitWhile(const std::atomic<int32_t>& value, int32_t old) {
  constexpr int32_t kSpins = 1000;
  for (int32_t spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int32_t threads) : threads_(threads), process_(getpid()) {
  for (int32_t index = 1; index < threads; ++index) {
    helpers_.emplace_back([this, index] { Serve(index); });
  }
}

Team::~Team() {
  if (getpid() != process_) {
    for (std::thread& helper : helpers_) helper.detach();  // there is nobody to wait for
    return;
  }
  stops_ = true;
  ++job_;
  job_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Team::Run(Work work, void* context) {
  alone_ = threads_ == 1 || getpid() != process_;
  if (alone_) return work(context, {0, 1});
  work_ = work;
  context_ = context;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  work(context, {0, threads_});
  Wait();
}

void Team::Wait() {
  if (alone_) return;
  const int32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  } else {
    WaitWhile(generation_, generation);
  }
}

void Team::Serve(int32_t index) {
  for (int32_t done = 0;; ++done) {
    WaitWhile(job_, done);
    if (stops_) return;
    work_(context_, {index, threads_});
    Wait();
  }
}

}  // namespace thinmaps
