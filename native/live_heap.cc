// SPDX-License-Identifier: Apache-2.0
// Counts the live heap of a process: start it with this library in LD_PRELOAD.
//
// Bytes are what the allocator reserves for a block (malloc_usable_size), so the same figure for
// every program; anonymous mappings made by mmap count until they are unmapped whole. `count` is
// the number of allocations since the last reset, `peak` the largest live size since then.
#include <dlfcn.h>
#include <malloc.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* block, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* block);
}

namespace {

std::atomic<int64_t> live_bytes{0};
std::atomic<int64_t> peak_bytes{0};
std::atomic<int64_t> allocations{0};

void Grow(int64_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const int64_t now = live_bytes.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = peak_bytes.load(std::memory_order_relaxed);
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

void Shrink(int64_t bytes) { live_bytes.fetch_sub(bytes, std::memory_order_relaxed); }

int64_t Size(void* block) { return static_cast<int64_t>(malloc_usable_size(block)); }

void* Counted(void* block) {
  if (block != nullptr) Grow(Size(block));
  return block;
}

// Anonymous mappings that are counted. Full, it forgets: such a mapping then counts for ever.
class Mappings {
 public:
  void Remember(void* address, size_t bytes) { Replace(nullptr, address, bytes); }

  // The bytes that were remembered at this address, or 0; they are forgotten.
  size_t Forget(void* address) { return Replace(address, nullptr, 0); }

 private:
  struct Mapping {
    void* address;
    size_t bytes;
  };

  size_t Replace(void* wanted, void* address, size_t bytes) {
    while (busy_.test_and_set(std::memory_order_acquire)) {
    }
    size_t found = 0;
    for (Mapping& mapping : mappings_) {
      if (mapping.address != wanted) continue;
      found = mapping.bytes;
      mapping = {address, bytes};
      break;
    }
    busy_.clear(std::memory_order_release);
    return found;
  }

  std::atomic_flag busy_;
  std::array<Mapping, 4096> mappings_{};
};

constinit Mappings mappings;

}  // namespace

#define THINMAPS_EXPORT extern "C" __attribute__((visibility("default")))

THINMAPS_EXPORT void* malloc(size_t bytes) { return Counted(__libc_malloc(bytes)); }

THINMAPS_EXPORT void* calloc(size_t count, size_t bytes) {
  return Counted(__libc_calloc(count, bytes));
}

THINMAPS_EXPORT void* realloc(void* block, size_t bytes) {
  const int64_t before = block == nullptr ? 0 : Size(block);
  void* moved = __libc_realloc(block, bytes);
  if (moved == nullptr && bytes != 0) return nullptr;
  Shrink(before);
  return Counted(moved);
}

THINMAPS_EXPORT void free(void* block) {
  if (block != nullptr) Shrink(Size(block));
  __libc_free(block);
}

THINMAPS_EXPORT void* memalign(size_t alignment, size_t bytes) {
  return Counted(__libc_memalign(alignment, bytes));
}

THINMAPS_EXPORT void* aligned_alloc(size_t alignment, size_t bytes) {
  return memalign(alignment, bytes);
}

THINMAPS_EXPORT int posix_memalign(void** block, size_t alignment, size_t bytes) {
  *block = memalign(alignment, bytes);
  return *block == nullptr ? ENOMEM : 0;
}

THINMAPS_EXPORT void* mmap(void* address, size_t bytes, int protection, int flags, int file,
                           off_t offset) {
  using Map = void* (*)(void*, size_t, int, int, int, off_t);
  static const Map next = reinterpret_cast<Map>(dlsym(RTLD_NEXT, "mmap"));
  void* mapped = next(address, bytes, protection, flags, file, offset);
  if (mapped != MAP_FAILED && (flags & MAP_ANONYMOUS) != 0 && protection != PROT_NONE) {
    Grow(static_cast<int64_t>(bytes));
    mappings.Remember(mapped, bytes);
  }
  return mapped;
}

THINMAPS_EXPORT int munmap(void* address, size_t bytes) {
  using Unmap = int (*)(void*, size_t);
  static const Unmap next = reinterpret_cast<Unmap>(dlsym(RTLD_NEXT, "munmap"));
  Shrink(static_cast<int64_t>(mappings.Forget(address)));
  return next(address, bytes);
}

// Resets the counters; the current live size becomes the base of `peak` and `live`.
THINMAPS_EXPORT void thinmaps_live_heap_reset() {
  live_bytes = 0;
  peak_bytes = 0;
  allocations = 0;
}

THINMAPS_EXPORT int64_t thinmaps_live_heap_peak() { return peak_bytes; }
THINMAPS_EXPORT int64_t thinmaps_live_heap_live() { return live_bytes; }
THINMAPS_EXPORT int64_t thinmaps_live_heap_count() { return allocations; }
