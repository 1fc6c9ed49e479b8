// SPDX-License-Identifier: Apache-2.0
// Packed filters: made once, shared by every model that is built with the same `PackedWeights`.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernel.h"
#include "sparse_row.h"

namespace thinmaps {

// Memory that starts at a cache line, so that a vector of filters lies in one.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* block, size_t) { ::operator delete(block, kLine); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
};

// The layout of `weights` is its kernel's. `bias` has the input's zero point folded in.
struct Filters final : Packed {
  std::vector<size_t> phase_offset;
  std::vector<int8_t, LineAllocator<int8_t>> weights;
  std::vector<int32_t, LineAllocator<int32_t>> bias;
  std::vector<float, LineAllocator<float>> multiplier;
  std::vector<size_t> phase_orders;
  std::vector<QuadOrder> orders;  // [phase][block][piece], where quads are sorted
  std::vector<Quartet> quartets;  // of filters whose zero squares are skipped, with their squares
  std::vector<SquarePlace> places;
  std::vector<int8_t> codes;   // [code][9], where `weights` are coefficients of them
  std::vector<uint8_t> shift;  // [block][16], of sums of coefficients
  // Of Winograd's algorithm: transformed filters, and the least sum of each channel.
  std::vector<int16_t, LineAllocator<int16_t>> points;
  std::vector<int32_t, LineAllocator<int32_t>> low;
  uint64_t fingerprint = 0;  // of what they were packed from

  size_t bytes() const {
    return weights.size() + orders.size() * sizeof(QuadOrder) + bias.size() * sizeof(int32_t) +
           multiplier.size() * sizeof(float) + quartets.size() * sizeof(Quartet) +
           places.size() * sizeof(SquarePlace) + codes.size() + shift.size() +
           points.size() * sizeof(int16_t) + low.size() * sizeof(int32_t);
  }
};

// Checks the sizes of a node's weights, bias and multiplier, and that no channel's sum can leave
// int32, whatever the input (RULES, 4).
void CheckFilters(const Blueprint& blueprint, size_t weights_per_channel);

// The filters of this layout that this node shares with an earlier model, or nullptr. Throws where
// those given are of another network.
std::shared_ptr<const Filters> SharedFilters(const Blueprint& blueprint, const std::string& layout);

// Stores freshly packed filters for later models.
std::shared_ptr<const Filters> ShareFilters(const Blueprint& blueprint, const std::string& layout,
                                            std::shared_ptr<Filters> filters);

}  // namespace thinmaps
