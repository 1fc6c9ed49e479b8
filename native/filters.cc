// SPDX-License-Identifier: Apache-2.0
#include "filters.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

namespace thinmaps {
namespace {

// FNV-1a over the source, eight bytes at a time.
class Fingerprint {
 public:
  template <typename Values>
  void Add(const Values& values) {
    const auto bytes = std::as_bytes(std::span(values));
    size_t i = 0;
    for (uint64_t word = 0; i + sizeof word <= bytes.size(); i += sizeof word) {
      std::memcpy(&word, bytes.data() + i, sizeof word);
      Mix(word);
    }
    for (; i < bytes.size(); ++i) Mix(static_cast<uint64_t>(bytes[i]));
  }
  uint64_t value() const { return value_; }

 private:
  // A multiplication moves nothing downwards: the rotation brings high bits to low places.
  void Mix(uint64_t word) { value_ = std::rotl(value_ ^ word, 29) * 0x100000001B3u; }

  uint64_t value_ = 0xCBF29CE484222325u;
};

uint64_t FingerprintOf(const Blueprint& blueprint) {
  const NodeDescription& node = blueprint.node;
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  Fingerprint fingerprint;
  fingerprint.Add(node.op);
  fingerprint.Add(node.weights);
  fingerprint.Add(node.bias);
  fingerprint.Add(node.multiplier);
  fingerprint.Add(node.integers);
  fingerprint.Add(node.table);
  fingerprint.Add(std::vector<int32_t>{in.zero_point, in.channels, out.channels, out.is_float});
  return fingerprint.value();
}

}  // namespace

void CheckFilters(const Blueprint& blueprint, size_t weights_per_channel) {
  const NodeDescription& node = blueprint.node;
  const auto outputs = static_cast<size_t>(blueprint.output().channels);
  blueprint.Need(node.weights.size() == outputs * weights_per_channel,
                 std::to_string(outputs * weights_per_channel) + " weights, got " +
                     std::to_string(node.weights.size()));
  blueprint.Need(node.bias.size() == outputs && node.multiplier.size() == outputs,
                 "a bias and a multiplier per output channel");
  constexpr int64_t kLimit = int64_t{1} << 31;
  for (size_t k = 0; k < outputs; ++k) {
    const int64_t bias = std::abs(static_cast<int64_t>(node.bias[k]));
    const auto most = static_cast<int64_t>(255 * 128 * weights_per_channel);
    if (bias + most < kLimit) continue;  // whatever the weights are
    int64_t reach = bias;
    for (size_t i = 0; i < weights_per_channel; ++i) {
      reach += 255 * std::abs(static_cast<int64_t>(node.weights[k * weights_per_channel + i]));
    }
    blueprint.Need(reach < kLimit, "sums that fit 32 bits; output channel " + std::to_string(k) +
                                       " reaches " + std::to_string(reach));
  }
}

std::shared_ptr<const Filters> SharedFilters(const Blueprint& blueprint,
                                             const std::string& layout) {
  const auto found = blueprint.packed.find({blueprint.node.name, layout});
  if (found == blueprint.packed.end()) return nullptr;
  auto filters = std::dynamic_pointer_cast<const Filters>(found->second);
  blueprint.Need(filters != nullptr && filters->fingerprint == FingerprintOf(blueprint),
                 "its own packed weights; those given are of another network");
  return filters;
}

std::shared_ptr<const Filters> ShareFilters(const Blueprint& blueprint, const std::string& layout,
                                            std::shared_ptr<Filters> filters) {
  filters->fingerprint = FingerprintOf(blueprint);
  blueprint.packed[{blueprint.node.name, layout}] = filters;
  return filters;
}

}  // namespace thinmaps
