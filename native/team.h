// SPDX-License-Identifier: Apache-2.0
// A few threads that share work: made once, so that running starts none.
//
// A job is a list of items, done one after another, each in one or more shares that run at the
// same time. A share belongs to nobody: a thread begins its own if that is free, for the sake of
// its cache, else any that nobody has begun. Whoever finishes the last share of an item goes on
// alone through items of one share, until one has several. So nobody waits for a thread that the
// system does not let run, unless it is in the middle of a share. (Self-scheduling is old; what is
// ours is the thread that finishes going on, in place of a barrier after every item.)
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "kernel.h"

namespace thinmaps {

class Team {
 public:
  static constexpr int32_t kMostShares = 30;

  // Does a part of item `item`. What items before it did can be seen.
  using Work = void (*)(void* context, int32_t item, Part part);

  explicit Team(int32_t threads);  // the caller is one of them
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int32_t threads() const { return threads_; }

  // Does shares.size() items, item i in shares[i] parts, 1 to kMostShares of them. In a process
  // that was forked, which has no thread but the one that forked it, the caller does all of them.
  void Run(std::span<const uint8_t> shares, Work work, void* context);

 private:
  void Serve(int32_t index);
  void TakeShares(int32_t index, uint32_t until);
  void GoOn(int32_t index);

  int32_t threads_;
  const pid_t process_;  // whose threads the helpers are

  // The job, and the item that is under way: written by the thread that nobody else works beside,
  // read by those that have begun a share.
  std::span<const uint8_t> shares_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  size_t item_ = 0;

  // A bit for each share of the item that nobody has begun, or that the job or all is over.
  alignas(64) std::atomic<uint32_t> offered_{0};
  alignas(64) std::atomic<int32_t> unfinished_{0};  // shares of the item
  std::vector<std::thread> helpers_;
};

}  // namespace thinmaps
