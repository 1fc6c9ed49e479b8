// SPDX-License-Identifier: Apache-2.0
// Native twin of gf2.py, which specifies the payload; gf2_layers.h and gf2_planes.h have the
// arithmetic.
//
// Pixels are asked for, up to sixteen of a row at a time, and a layer asks the one before it for
// what its windows see. So nothing is held but a batch per layer, and a pixel that several windows
// of 3 x 3 see is made for each of them.
#include <algorithm>
#include <array>

#include "bit_stream.h"
#include "codec.h"
#include "gf2_layers.h"
#include "gf2_planes.h"

namespace thinmaps {
namespace {

using namespace gf2;

struct Size {
  int32_t rows = 0;
  int32_t columns = 0;
};

// Pixels `column + i * step` of a row, for `count` of i; those outside of the map have no bit set.
struct Run {
  int32_t row = 0;
  int32_t column = 0;
  int32_t step = 1;
  size_t count = 0;
};

using Places = std::array<uint32_t*, kBatch>;
using Pixels = std::array<Pixel, kBatch>;

Places PlacesOf(Pixels* pixels) {
  Places places;
  for (size_t i = 0; i < kBatch; ++i) places[i] = (*pixels)[i].words;
  return places;
}

void ClearOutside(const Run& run, const Size& size, size_t words, const Places& out) {
  for (size_t i = 0; i < run.count; ++i) {
    const int32_t column = run.column + static_cast<int32_t>(i) * run.step;
    if (column < 0 || column >= size.columns) std::fill_n(out[i], words, 0);
  }
}

// Layers and what they are given, read from Gf2.native_integers and native_tables.
struct Layers {
  std::array<Layer, kMostLayers> layer;
  size_t count = 0;
  std::array<Size, kMostLayers + 1> size{};  // of the map before each layer and behind the last
};

class Code {
 public:
  bool Read(const CodecSpec& spec, int32_t rows) {
    auto integers = spec.integers;
    if (integers.size() < 4 || rows < 1 || spec.width < 1) return false;
    const auto head = integers.first(4);
    if (head[0] < 1 || head[0] > 9 || head[1] < 1 || spec.channels % head[1] != 0) return false;
    constexpr auto kMost = static_cast<int32_t>(kMostLayers);
    if (head[2] < 1 || head[2] > kMost || head[3] < 0 || head[3] > kMost) return false;
    planes = {static_cast<size_t>(head[0]), static_cast<size_t>(head[1]),
              static_cast<size_t>(spec.channels / head[1]), static_cast<uint8_t>(spec.zero_point)};
    project.count = static_cast<size_t>(head[2]);
    restore.count = static_cast<size_t>(head[3]);
    integers = integers.subspan(4);
    auto tables = spec.tables;
    size_t bits = planes.planes * planes.channels;
    for (Layers* layers : {&project, &restore}) {
      for (size_t i = 0; i < layers->count; ++i) {
        if (!ReadLayer(bits, &integers, &tables, &layers->layer[i])) return false;
        bits = layers->layer[i].outputs;
      }
      if (layers == &project) stored = bits;
    }
    if (bits != planes.planes * planes.channels) return false;
    return integers.empty() && tables.empty() && Measure({rows, spec.width});
  }

  // Bits of a stored pixel, and bytes of a row of them and of all.
  size_t pixel_bits() const { return stored * planes.groups; }
  size_t row_bytes() const {
    return (static_cast<size_t>(stored_size().columns) * pixel_bits() + 7) / 8;
  }
  size_t bytes() const { return static_cast<size_t>(stored_size().rows) * row_bytes(); }
  const Size& stored_size() const { return project.size[project.count]; }

  Planes planes;
  Layers project;
  Layers restore;
  size_t stored = 0;  // bits of a group

 private:
  bool ReadLayer(size_t inputs, std::span<const int32_t>* integers,
                 std::span<const uint8_t>* tables, Layer* layer) const {
    constexpr size_t kHead = 5 + kMostSlices;
    if (integers->size() < kHead) return false;
    const auto head = integers->first(kHead);
    if (head[0] < 1 || head[1] < 1 || static_cast<size_t>(head[0]) != inputs) return false;
    if ((head[2] != 1 && head[2] != 3) || head[4] < 1 || head[4] > 8) return false;
    *layer = Layer{.groups = planes.groups,
                   .inputs = inputs,
                   .outputs = static_cast<size_t>(head[1]),
                   .taps = static_cast<size_t>(head[2] * head[2]),
                   .every = head[3],
                   .slices = static_cast<size_t>(head[4])};
    for (size_t s = 0; s < layer->slices; ++s) {
      layer->factors[s] = std::clamp(head[5 + s], -128, 129);
    }
    if (!layer->FactorsFall()) return false;
    const size_t most = std::max(layer->words(), layer->output_words());
    if (planes.groups > kMostWords || most > kMostWords / planes.groups) return false;
    *integers = integers->subspan(kHead);
    if (integers->size() < layer->threshold_count()) return false;
    if (tables->size() < layer->mask_bytes()) return false;
    layer->thresholds = integers->data();
    layer->masks = tables->data();
    *integers = integers->subspan(layer->threshold_count());
    *tables = tables->subspan(layer->mask_bytes());
    return true;
  }

  // The sizes before and behind every layer; returns whether both sides halve equally often.
  bool Measure(Size size) {
    std::array<Size, kMostLayers + 1> wholes{};
    size_t halvings = 0;
    project.size[0] = size;
    for (size_t i = 0; i < project.count; ++i) {
      if (project.layer[i].taps > 1) {
        wholes[halvings++] = size;
        size = {(size.rows + 1) / 2, (size.columns + 1) / 2};
      }
      project.size[i + 1] = size;
    }
    restore.size[0] = size;
    for (size_t i = 0; i < restore.count; ++i) {
      if (restore.layer[i].taps > 1) {
        if (halvings == 0) return false;
        size = wholes[--halvings];
      }
      restore.size[i + 1] = size;
    }
    return halvings == 0;
  }
};

// One direction of one unit. `Source` gives the pixels that the first layer sees.
template <typename Tiles, bool kRestores, typename Source>
class Unit {
 public:
  Unit(const Code& code, const Layers& layers, const Source& source)
      : code_(code), layers_(layers), source_(source) {}

  // The pixels of a run behind the first `level` layers.
  void Fill(size_t level, const Run& run, const Places& out) const {
    if (level == 0) {
      source_.Fill(run, out);
    } else if (layers_.layer[level - 1].taps == 1) {
      Pixels inputs;
      const Places places = PlacesOf(&inputs);
      Fill(level - 1, run, places);
      Window window;
      window.taps = 1;
      See(places, run.count, &window.pixels[0]);
      Apply<Tiles>(layers_.layer[level - 1], window, run.count, out.data());
    } else if (kRestores && run.step % 2 != 0 && run.count > 1) {
      FillHalves(level, run, out);
    } else {
      FillWindows(level, run, out);
    }
    const size_t bits = level == 0 ? source_.bits() : layers_.layer[level - 1].outputs;
    const size_t words = code_.planes.groups * WordsOf(bits);
    ClearOutside(run, layers_.size[level], words, out);
  }

 private:
  static void See(const Places& places, size_t count, std::array<const uint32_t*, kBatch>* pixels) {
    for (size_t i = 0; i < count; ++i) (*pixels)[i] = places[i];
  }

  // Columns of one parity have the same taps.
  void FillHalves(size_t level, const Run& run, const Places& out) const {
    for (size_t half = 0; half < 2; ++half) {
      Places some{};
      size_t count = 0;
      for (size_t i = half; i < run.count; i += 2) some[count++] = out[i];
      const int32_t first = run.column + static_cast<int32_t>(half) * run.step;
      Fill(level, {run.row, first, 2 * run.step, count}, some);
    }
  }

  void FillWindows(size_t level, const Run& run, const Places& out) const {
    std::array<Pixels, kMostTaps> inputs;
    Window window;
    for (int32_t y = 0; y < 3; ++y) {
      for (int32_t x = 0; x < 3; ++x) {
        Run seen;
        if (!Seen(run, y, x, &seen)) continue;
        if (seen.row < 0 || seen.row >= layers_.size[level - 1].rows) continue;
        const Places places = PlacesOf(&inputs[window.taps]);
        Fill(level - 1, seen, places);
        See(places, run.count, &window.pixels[window.taps]);
        window.tap[window.taps++] = static_cast<size_t>(3 * y + x);
      }
    }
    Apply<Tiles>(layers_.layer[level - 1], window, run.count, out.data());
  }

  // What tap (y, x) of the run's windows sees; false where stride 2 leaves it out.
  static bool Seen(const Run& run, int32_t y, int32_t x, Run* seen) {
    if (!kRestores) {
      *seen = {2 * run.row + y - 1, 2 * run.column + x - 1, 2 * run.step, run.count};
      return true;
    }
    const int32_t row = run.row + 1 - y;
    const int32_t column = run.column + 1 - x;
    *seen = {row / 2, column / 2, run.step / 2, run.count};
    return row % 2 == 0 && column % 2 == 0;
  }

  const Code& code_;
  const Layers& layers_;
  const Source& source_;
};

// The bytes of a map as bits.
template <typename Transform>
struct MapSource {
  const Code& code;
  const ConstRows& rows;

  size_t bits() const { return code.planes.planes * code.planes.channels; }
  void Fill(const Run& run, const Places& out) const {
    const int32_t columns = code.project.size[0].columns;
    for (size_t i = 0; i < run.count; ++i) {
      const int32_t column = run.column + static_cast<int32_t>(i) * run.step;
      if (column < 0 || column >= columns) continue;
      Transform::Encode(code.planes, rows.rows[run.row] + column * rows.pixel_bytes, out[i]);
    }
  }
};

// Stored bits.
struct StoredSource {
  const Code& code;
  std::span<const uint8_t> payload;

  size_t bits() const { return code.stored; }
  void Fill(const Run& run, const Places& out) const {
    const size_t row_bytes = code.row_bytes();
    const auto row = payload.subspan(static_cast<size_t>(run.row) * row_bytes, row_bytes);
    for (size_t i = 0; i < run.count; ++i) {
      const int32_t column = run.column + static_cast<int32_t>(i) * run.step;
      if (column < 0 || column >= code.stored_size().columns) continue;
      size_t bit = static_cast<size_t>(column) * code.pixel_bits();
      uint32_t* words = out[i];
      for (size_t group = 0; group < code.planes.groups; ++group) {
        for (size_t done = 0; done < code.stored; done += 64) {
          const size_t count = std::min<size_t>(64, code.stored - done);
          const uint64_t some = BitsAt(row, bit + done) & ~uint64_t{0} >> (64 - count);
          words[done / kWordBits] = static_cast<uint32_t>(some);
          words[done / kWordBits + 1] = static_cast<uint32_t>(some >> kWordBits);
        }
        bit += code.stored;
        words += WordsOf(code.stored);
      }
    }
  }
};

// Appends the bits of a stored pixel, group by group.
void Append(const Code& code, const uint32_t* words, BitWriter* writer) {
  for (size_t group = 0; group < code.planes.groups; ++group) {
    for (size_t done = 0; done < code.stored; done += 64) {
      const size_t count = std::min<size_t>(64, code.stored - done);
      const uint64_t both = words[done / kWordBits] | uint64_t{words[done / kWordBits + 1]}
                                                          << kWordBits;
      writer->Append(both & ~uint64_t{0} >> (64 - count), count);
    }
    words += WordsOf(code.stored);
  }
}

template <typename Tiles, typename Transform>
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Code code;
  if (!code.Read(spec, rows.count)) return Status::kBadArgument;
  if (payload.size() < code.bytes()) return Status::kTooSmall;

  const MapSource<Transform> source{code, rows};
  const Unit<Tiles, false, MapSource<Transform>> unit(code, code.project, source);
  const Size size = code.stored_size();
  Pixels pixels;
  const Places places = PlacesOf(&pixels);
  for (int32_t row = 0; row < size.rows; ++row) {
    BitWriter writer(
        payload.subspan(static_cast<size_t>(row) * code.row_bytes(), code.row_bytes()));
    for (int32_t column = 0; column < size.columns; column += static_cast<int32_t>(kBatch)) {
      const size_t count = std::min(kBatch, static_cast<size_t>(size.columns - column));
      unit.Fill(code.project.count, {row, column, 1, count}, places);
      for (size_t i = 0; i < count; ++i) Append(code, places[i], &writer);
    }
    writer.Flush();
  }
  *written = code.bytes();
  return Status::kOk;
}

bool HasSpareBits(const Code& code, std::span<const uint8_t> payload) {
  const size_t used = static_cast<size_t>(code.stored_size().columns) * code.pixel_bits();
  uint32_t spare = 0;
  for (size_t end = code.row_bytes(); used % 8 != 0 && end <= payload.size();
       end += code.row_bytes()) {
    spare |= static_cast<uint32_t>(payload[end - 1]) >> used % 8;
  }
  return spare != 0;
}

template <typename Tiles, typename Transform>
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Code code;
  if (!code.Read(spec, rows.count)) return Status::kBadArgument;
  if (payload.size() != code.bytes() || HasSpareBits(code, payload)) {
    return Status::kCorruptPayload;
  }

  const StoredSource source{code, payload};
  const Unit<Tiles, true, StoredSource> unit(code, code.restore, source);
  Pixels pixels;
  const Places places = PlacesOf(&pixels);
  for (int32_t row = 0; row < rows.count; ++row) {
    for (int32_t done = 0; done < columns; done += static_cast<int32_t>(kBatch)) {
      const size_t count = std::min(kBatch, static_cast<size_t>(columns - done));
      unit.Fill(code.restore.count, {row, column + done, 1, count}, places);
      uint8_t* pixel = rows.rows[row] + done * rows.pixel_bytes;
      for (size_t i = 0; i < count; ++i, pixel += rows.pixel_bytes) {
        Transform::Decode(code.planes, places[i], pixel);
      }
    }
  }
  return Status::kOk;
}

}  // namespace

extern const CodecKernel kGf2{"gf2", Isa::kPortable, Encode<PortableTiles, PortablePlanes>,
                              Decode<PortableTiles, PortablePlanes>};
#if defined(__x86_64__)
extern const CodecKernel kGf2Avx2{"gf2", Isa::kAvx2, Encode<Avx2Tiles, PortablePlanes>,
                                  Decode<Avx2Tiles, PortablePlanes>};
extern const CodecKernel kGf2Avx512{"gf2", Isa::kAvx512, Encode<Avx512Tiles, Avx512Planes>,
                                    Decode<Avx512Tiles, Avx512Planes>};
#endif

}  // namespace thinmaps
