// SPDX-License-Identifier: Apache-2.0
// Encode and Decode: rows of an edge that is held encoded, unit by unit.
//
// A slot holds one unit's payload; for variable-rate codecs four bytes before it say how long it
// is (little-endian).
#include <algorithm>
#include <atomic>
#include <vector>

#include "codec.h"
#include "kernel.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostUnitRows = 4096;  // bounds the stack
constexpr size_t kLengthBytes = 4;

// What encoders have stored: bytes, the lengths counted, and units that passed their cap.
struct Stored {
  int64_t bytes = 0;
  int64_t overflows = 0;
};

// The parts of a step count at the same time.
void Count(int64_t* counter, int64_t counted) {
  std::atomic_ref<int64_t>(*counter).fetch_add(counted, std::memory_order_relaxed);
}

// The map, its codec with configuration and tables, and the sizes of its units.
class Coding {
 public:
  // Integers: variable rate (0 or 1), rows of a unit, bytes of a unit, bytes of the last unit, and
  // the codec's own.
  Coding(const Blueprint& blueprint, const MapDescription& raw, const MapDescription& encoded)
      : height_(raw.height), width_(raw.width), tables_(blueprint.node.table) {
    constexpr size_t kOwn = 4;
    const auto& integers = blueprint.node.integers;
    blueprint.Need(integers.size() >= kOwn, "the sizes of its coding units");
    variable_ = integers[0] != 0;
    unit_rows_ = integers[1];
    unit_bytes_ = integers[2];
    last_unit_bytes_ = integers[3];
    integers_.assign(integers.begin() + kOwn, integers.end());
    spec_ = {raw.width, raw.channels, raw.zero_point, integers_, tables_};
    kernel_ = FindCodec(blueprint.node.codec_id);
    blueprint.Need(kernel_ != nullptr,
                   "a codec with a native kernel, got '" + blueprint.node.codec_id + "'");
    blueprint.NeedInputs(1);
    blueprint.NeedBytes(raw);
    blueprint.Need(raw.pixel_bytes > 0, "raw rows in map '" + raw.name + "'");
    blueprint.NeedSameShape(raw, encoded);
    blueprint.Need(encoded.buffer >= 0 && encoded.pixel_bytes == 0 && encoded.channel == 0,
                   "an encoded map in the arena, got '" + encoded.name + "'");
    blueprint.Need(
        unit_rows_ >= 1 && unit_rows_ <= kMostUnitRows && encoded.unit_rows == unit_rows_,
        "units of 1 to 4096 rows, the same wherever the map is "
        "read; got " +
            std::to_string(unit_rows_) + " and " + std::to_string(encoded.unit_rows));
    const auto& buffer = blueprint.description.buffers[static_cast<size_t>(encoded.buffer)];
    const int64_t prefix = variable_ ? static_cast<int64_t>(kLengthBytes) : 0;
    blueprint.Need(unit_bytes_ >= 0 && last_unit_bytes_ >= 0 &&
                       std::max(unit_bytes_, last_unit_bytes_) + prefix <= buffer.slot_bytes,
                   "slots that hold its largest unit");
  }
  Coding(const Coding&) = delete;
  Coding& operator=(const Coding&) = delete;

  int32_t height() const { return height_; }
  int32_t unit_rows() const { return unit_rows_; }
  size_t bytes() const { return tables_.size() + integers_.size() * sizeof(int32_t); }

  void EncodeUnit(const MapView& raw, const MapView& encoded, int32_t first, Stored* stored) const {
    const uint8_t* rows[kMostUnitRows];
    const int32_t count = PointAtRows(raw, first, rows);
    uint8_t* slot = encoded.Row(first);
    uint8_t* payload = variable_ ? slot + kLengthBytes : slot;
    size_t written = 0;
    // The slot holds the largest unit, so that encoding cannot fail.
    (void)kernel_->encode(spec_, {rows, count, raw.pixel_bytes}, {payload, Largest(count)},
                          &written);
    stored->bytes += static_cast<int64_t>(written);
    if (!variable_) return;
    for (size_t i = 0; i < kLengthBytes; ++i) slot[i] = static_cast<uint8_t>(written >> (8 * i));
    stored->bytes += static_cast<int64_t>(kLengthBytes);
    if (kernel_->overflowed != nullptr)
      stored->overflows += kernel_->overflowed({payload, written});
  }

  void DecodeUnit(const MapView& raw, const MapView& encoded, int32_t first) const {
    uint8_t* rows[kMostUnitRows];
    const int32_t count = PointAtRows(raw, first, rows);
    const uint8_t* slot = encoded.Row(first);
    size_t length = Largest(count);
    if (variable_) {
      size_t stored = 0;
      for (size_t i = 0; i < kLengthBytes; ++i) stored |= size_t{slot[i]} << (8 * i);
      length = std::min(stored, length);
      slot += kLengthBytes;
    }
    // Our own encoder wrote these bytes; what a codec refuses leaves the rows as they are.
    (void)kernel_->decode(spec_, {slot, length}, 0, width_, {rows, count, raw.pixel_bytes});
  }

 private:
  template <typename Byte>
  int32_t PointAtRows(const MapView& raw, int32_t first, Byte** rows) const {
    const int32_t count = std::min(unit_rows_, height_ - first);
    for (int32_t r = 0; r < count; ++r) rows[r] = raw.Row(first + r);
    return count;
  }

  size_t Largest(int32_t rows) const {
    return static_cast<size_t>(rows == unit_rows_ ? unit_bytes_ : last_unit_bytes_);
  }

  const CodecKernel* kernel_ = nullptr;
  CodecSpec spec_;
  int32_t height_;
  int32_t width_;
  int32_t unit_rows_ = 1;
  int64_t unit_bytes_ = 0;
  int64_t last_unit_bytes_ = 0;
  bool variable_ = false;
  std::vector<int32_t> integers_;
  std::vector<uint8_t> tables_;
};

template <bool kEncodes>
class UnitKernel final : public Kernel {
 public:
  explicit UnitKernel(const Blueprint& blueprint)
      : coding_(blueprint, kEncodes ? blueprint.input(0) : blueprint.output(),
                kEncodes ? blueprint.output() : blueprint.input(0)),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output) {}

  int32_t work_rows() const override { return coding_.height(); }
  int32_t step_rows() const override { return coding_.unit_rows(); }
  int32_t most_parts(Rows rows) const override { return Units(rows); }
  size_t weights_bytes() const override { return coding_.bytes(); }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const int32_t unit_rows = coding_.unit_rows();
    const Range units = Share(Units(rows), part);
    Stored stored;
    for (int32_t unit = units.first; unit < units.stop; ++unit) {
      const int32_t first = rows.first + unit * unit_rows;
      if constexpr (kEncodes) {
        coding_.EncodeUnit(memory.maps[input_], memory.maps[output_], first, &stored);
      } else {
        coding_.DecodeUnit(memory.maps[output_], memory.maps[input_], first);
      }
    }
    if constexpr (kEncodes) {
      Count(&memory.encoded_bytes[output_], stored.bytes);
      Count(&memory.overflows[output_], stored.overflows);
    }
  }

 private:
  int32_t Units(Rows rows) const {
    return (rows.count + coding_.unit_rows() - 1) / coding_.unit_rows();
  }

  Coding coding_;
  int32_t input_;
  int32_t output_;
};

}  // namespace

std::unique_ptr<const Kernel> MakeEncode(const Blueprint& blueprint) {
  return std::make_unique<UnitKernel<true>>(blueprint);
}

std::unique_ptr<const Kernel> MakeDecode(const Blueprint& blueprint) {
  return std::make_unique<UnitKernel<false>>(blueprint);
}

}  // namespace thinmaps
