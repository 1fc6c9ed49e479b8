// SPDX-License-Identifier: Apache-2.0
#include "team.h"

#include <unistd.h>

#include <bit>
#include <cfenv>

namespace thinmaps {
namespace {

constexpr uint32_t kJobIsOver = 1u << 31;
constexpr uint32_t kAllIsOver = 1u << 30;
constexpr uint32_t kShares = (1u << Team::kMostShares) - 1;

// What `value` is once it is no longer `old`. Waits awake for some 50 to 100 microseconds,
// longer than most shares take, then asleep: by then nobody shares, or who does does not run.
uint32_t Changed(const std::atomic<uint32_t>& value, uint32_t old) {
  constexpr int32_t kSpins = 2500;
  for (int32_t spin = 0; spin < kSpins; ++spin) {
    const uint32_t found = value.load(std::memory_order_acquire);
    if (found != old) return found;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  value.wait(old);
  return value.load(std::memory_order_acquire);
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
  offered_.store(kAllIsOver);
  offered_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Team::Run(std::span<const uint8_t> shares, Work work, void* context) {
  if (threads_ == 1 || getpid() != process_) {
    for (size_t i = 0; i < shares.size(); ++i) work(context, static_cast<int32_t>(i), {0, 1});
    return;
  }
  shares_ = shares;
  work_ = work;
  context_ = context;
  item_ = 0;
  offered_.store(0, std::memory_order_relaxed);
  GoOn(0);
  TakeShares(0, kJobIsOver);
}

// Does the items of one share that are next, then offers the shares of the one after them.
void Team::GoOn(int32_t index) {
  for (; item_ < shares_.size() && shares_[item_] == 1; ++item_) {
    work_(context_, static_cast<int32_t>(item_), {0, 1});
  }
  if (item_ == shares_.size()) {
    offered_.store(kJobIsOver);
    if (index != 0) offered_.notify_all();  // only the caller waits for this
    return;
  }
  unfinished_.store(shares_[item_], std::memory_order_relaxed);
  offered_.store((1u << shares_[item_]) - 1);
  offered_.notify_all();  // a system call only if somebody is asleep
}

// Thread `index` takes shares until one of the bits of `until` is offered instead.
void Team::TakeShares(int32_t index, uint32_t until) {
  const uint32_t own = 1u << index % kMostShares;
  uint32_t offered = offered_.load(std::memory_order_acquire);
  while ((offered & until) == 0) {
    const uint32_t free = offered & kShares;
    if (free == 0) {
      offered = Changed(offered_, offered);
      continue;
    }
    const uint32_t share = (free & own) != 0 ? own : free & (~free + 1);
    // Whichever item it is by now, a share is ours if its bit was still there.
    if ((offered_.fetch_and(~share, std::memory_order_acquire) & share) != 0) {
      work_(context_, static_cast<int32_t>(item_), {std::countr_zero(share), shares_[item_]});
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        ++item_;
        GoOn(index);
      }
    }
    offered = offered_.load(std::memory_order_acquire);
  }
}

void Team::Serve(int32_t index) {
  std::fesetenv(FE_DFL_ENV);  // whatever the thread has set that made the team
  TakeShares(index, kAllIsOver);
}

}  // namespace thinmaps
