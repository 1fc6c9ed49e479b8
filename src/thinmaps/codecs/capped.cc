// SPDX-License-Identifier: Apache-2.0
// Native twin of capped.py, which specifies the payload: the kernels of block_width behind one
// byte.
#include "codec.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostSteps = 8;

// The steps as block_width has them, or false where the tables are not the tables of all of them.
struct Variants {
  size_t count = 0;
  size_t table_bytes = 0;

  bool Read(const CodecSpec& spec) {
    if (spec.integers.size() != 1 || spec.integers[0] < 1 || spec.integers[0] > kMostSteps) {
      return false;
    }
    count = static_cast<size_t>(spec.integers[0]);
    table_bytes = spec.tables.size() / count;
    return spec.tables.size() == count * table_bytes;
  }

  CodecSpec At(const CodecSpec& spec, size_t k) const {
    return {spec.width,
            spec.channels,
            spec.zero_point,
            {},
            spec.tables.subspan(k * table_bytes, table_bytes)};
  }
};

// `payload` is as long as the cap. A step whose bytes do not fit has written some of them, which
// the next one overwrites.
template <Isa kIsa>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Variants variants;
  const CodecKernel* blocks = FindCodec("block_width", kIsa);
  if (!variants.Read(spec) || blocks == nullptr) return Status::kBadArgument;
  if (payload.empty()) return Status::kTooSmall;
  Status status = Status::kTooSmall;
  for (size_t k = 0; k < variants.count && status == Status::kTooSmall; ++k) {
    payload[0] = static_cast<uint8_t>(k);
    status = blocks->encode(variants.At(spec, k), rows, payload.subspan(1), written);
  }
  *written += status == Status::kOk;
  return status;
}

template <Isa kIsa>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Variants variants;
  const CodecKernel* blocks = FindCodec("block_width", kIsa);
  if (!variants.Read(spec) || blocks == nullptr) return Status::kBadArgument;
  if (payload.empty() || payload[0] >= variants.count) return Status::kCorruptPayload;
  return blocks->decode(variants.At(spec, payload[0]), payload.subspan(1), column, columns, rows);
}

bool FirstStepsDidNotFit(std::span<const uint8_t> payload) {
  return !payload.empty() && payload[0] > 0;
}

}  // namespace

extern const CodecKernel kCapped{"capped", Isa::kPortable, Encode<Isa::kPortable>,
                                 Decode<Isa::kPortable>, FirstStepsDidNotFit};
#if defined(__x86_64__)
extern const CodecKernel kCappedAvx2{"capped", Isa::kAvx2, Encode<Isa::kAvx2>, Decode<Isa::kAvx2>,
                                     FirstStepsDidNotFit};
extern const CodecKernel kCappedAvx512{"capped", Isa::kAvx512, Encode<Isa::kAvx512>,
                                       Decode<Isa::kAvx512>, FirstStepsDidNotFit};
#endif

}  // namespace thinmaps
