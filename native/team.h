// SPDX-License-Identifier: Apache-2.0
// A few threads that wait for work: made once, so that running starts none.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernel.h"

namespace thinmaps {

class Team {
 public:
  using Work = void (*)(void* context, Part part);

  explicit Team(int32_t threads);  // the caller is one of them
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int32_t threads() const { return threads_; }

  // Calls work(context, part) once per thread, here too; returns when all have. In a process that
  // was forked, which has no thread but the one that forked it, the caller does all of the work.
  void Run(Work work, void* context);

  // Every thread of a running work waits here for the others.
  void Wait();

 private:
  void Serve(int32_t index);

  int32_t threads_;
  const pid_t process_;  // whose threads the helpers are
  bool alone_ = false;   // the caller has no helpers
  Work work_ = nullptr;
  void* context_ = nullptr;
  std::atomic<int32_t> arrived_{0};
  std::atomic<int32_t> generation_{0};
  std::atomic<int32_t> job_{0};
  std::atomic<bool> stops_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace thinmaps
