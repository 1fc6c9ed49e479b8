// SPDX-License-Identifier: Apache-2.0
// Every instruction set that runs here gives the bytes of the portable loops, over shapes that are
// meant to hurt: rows, channels and windows that fill no vector, pixels with gaps between them,
// padding on all sides, sums and rounding at their bounds, filters with zeros in blocks, which are
// skipped or not.
//
// tests/run asks the same of the engine and NumPy where there is Python. This test needs neither,
// so that it also runs in an emulator.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "chain.h"
#include "engine.h"
#include "isa.h"
#include "model.h"

namespace thinmaps {
namespace {

constexpr uint32_t kConvolutions = 400;
constexpr uint32_t kElementwise = 100;

// The input and output are the first two maps, and live with the caller.
constexpr int32_t kInput = 0;
constexpr int32_t kOutput = 1;

constexpr int64_t kScratchBytes = 1 << 18;  // more than any of these convolutions needs

// Tables and filters of extremes make the largest sums; ordinary ones fall on ties.
template <typename T>
std::vector<T> Values(Numbers& numbers, size_t count, int32_t low, int32_t high) {
  if (numbers.Next(0, 3) > 0) return numbers.Many<T>(count, low, high);
  std::vector<T> values;
  for (size_t i = 0; i < count; ++i) {
    values.push_back(static_cast<T>(numbers.Next(0, 1) == 0 ? low : high));
  }
  return values;
}

int32_t OneOf(Numbers& numbers, std::vector<int32_t> choices) {
  return choices[static_cast<size_t>(numbers.Next(0, static_cast<int32_t>(choices.size()) - 1))];
}

// A map in the arena; in some, pixels have bytes of others before and behind them.
int32_t MapWithGaps(Chain& chain, Shape shape, int32_t zero_point) {
  const int32_t gap = OneOf(chain.numbers, {0, 0, 1, 5});
  Shape wide = shape;
  wide.channels += 2 * gap;
  const int32_t index = chain.Map(wide, zero_point);
  MapDescription& map = chain.description.maps[static_cast<size_t>(index)];
  map.channels = shape.channels;
  map.channel = gap;
  return index;
}

int32_t Looked(Chain& chain, int32_t from, int32_t to) {
  NodeDescription node = chain.Plain("lookup", {});
  node.table = Values<uint8_t>(chain.numbers, 256, 0, 255);
  return chain.Node(node, {from}, to);
}

// Groups, and channels of the input and the output of one group; all in one for depthwise.
struct Widths {
  int32_t groups, inputs, outputs;
};

// Sets about half of the squares to zero: 4 outputs by 4 inputs of a tap.
void ClearSquares(Numbers& numbers, const Widths& widths, int32_t taps,
                  std::vector<int8_t>& weights) {
  const uint32_t salt = static_cast<uint32_t>(numbers.Next(0, 1 << 20));
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto at = static_cast<uint32_t>(i);
    const auto tap = at % static_cast<uint32_t>(taps);
    const auto input = at / static_cast<uint32_t>(taps) % static_cast<uint32_t>(widths.inputs);
    const auto output = at / static_cast<uint32_t>(taps * widths.inputs);
    const uint32_t square = (output / 4 * 64 + input / 4) * 64 + tap + salt;
    if ((square * 2654435761u & 1u << 31) != 0) weights[i] = 0;
  }
}

Widths DrawWidths(Numbers& numbers) {
  const int32_t kind = numbers.Next(0, 3);
  if (kind == 0) return {numbers.Next(2, 70), 1, 1};
  const int32_t groups = kind == 1 ? numbers.Next(2, 4) : 1;
  return {groups, numbers.Next(1, 70 / groups), numbers.Next(1, 70 / groups)};
}

// One convolution of any kind between two tables.
void DrawConvolution(Chain& chain) {
  Numbers& n = chain.numbers;
  const Widths widths = DrawWidths(n);
  const bool transposed = n.Next(0, 7) == 0;
  const bool head = n.Next(0, 9) == 0;
  const Shape in{n.Next(1, 5), n.Next(1, 70), widths.groups * widths.inputs};
  const int32_t width = n.Next(0, 2) == 0 ? n.Next(1, 9) : n.Next(1, 70);
  const Shape out{n.Next(1, 5), width, widths.groups * widths.outputs};
  const int32_t zero_points[] = {OneOf(n, {0, 1, 127, 128, 255}), OneOf(n, {0, 3, 128, 255})};
  chain.Map(in, 0, true);
  chain.Map(out, zero_points[1], true, head);
  const int32_t x = Looked(chain, kInput, MapWithGaps(chain, in, zero_points[0]));
  const int32_t kernel[] = {OneOf(n, {1, 3, 5}), OneOf(n, {1, 3, 5})};
  const int32_t low = n.Next(0, 1) == 0 ? 0 : n.Next(0, 100);
  const int32_t high = n.Next(0, 1) == 0 ? 255 : n.Next(100, 255);
  const int32_t taps = kernel[0] * kernel[1];
  NodeDescription node = chain.Filters(
      transposed ? "conv_transpose" : "conv",
      {kernel[0], kernel[1], n.Next(1, 3), n.Next(1, 3), n.Next(1, 2), n.Next(1, 2), n.Next(0, 4),
       n.Next(0, 4), n.Next(0, 4), n.Next(0, 4), widths.groups, low, high},
      out.channels, 0);
  const auto weights = static_cast<size_t>(out.channels * widths.inputs * taps);
  std::vector<int8_t>& drawn = chain.kept.emplace_back(Values<int8_t>(n, weights, -128, 127));
  if (n.Next(0, 1) == 0) ClearSquares(n, widths, taps, drawn);
  node.weights = drawn;
  for (float& each : node.multiplier) each = 1.0f / static_cast<float>(1 << n.Next(5, 14));
  if (head) {
    chain.Node(node, {x}, kOutput);
  } else {
    Looked(chain, chain.Node(node, {x}, MapWithGaps(chain, out, zero_points[1])), kOutput);
  }
}

// A node of two maps of one picture, and pooling of what comes out.
void DrawElementwise(Chain& chain) {
  Numbers& n = chain.numbers;
  const Shape shape{n.Next(1, 5), n.Next(1, 70), 3};
  const bool adds = n.Next(0, 1) == 0;
  // Ratios on a grid, or not; odd zero points are added before rounding.
  const float ratio = n.Next(0, 1) == 0 ? 0.75f : 0.7000001f;
  chain.Map(shape, 0, true);
  chain.Map(shape, 0, true);
  NodeDescription start = chain.Plain("picture", {2, 1, 0});
  start.table = n.Many<uint8_t>(3 * 256, 0, 255);
  const int32_t a = chain.Node(start, {kInput}, MapWithGaps(chain, shape, n.Next(0, 255)));
  const int32_t b = Looked(chain, kInput, MapWithGaps(chain, shape, n.Next(0, 255)));
  NodeDescription node = chain.Plain(adds ? "add" : "mul", {n.Next(0, 9), n.Next(200, 255)},
                                     adds ? std::vector{ratio, 0.5f} : std::vector{ratio / 128});
  const int32_t both = chain.Node(node, {a, b}, MapWithGaps(chain, shape, n.Next(0, 255)));
  const int32_t pooled = chain.Map(shape, 0);
  chain.Node(chain.Plain("max_pool", {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}), {both}, pooled);
  Looked(chain, pooled, kOutput);
}

using Draw = void (*)(Chain&);

// Convolutions with an output of bytes get scratch, behind all else in the arena.
void SkipZeroSquares(Chain& chain) {
  for (NodeDescription& node : chain.description.nodes) {
    const bool is_float = chain.description.maps[static_cast<size_t>(node.output)].is_float;
    if (node.op == "conv" && !is_float) node.state = chain.Buffer(1, kScratchBytes);
  }
}

// The arena and the output, after a run.
std::vector<uint8_t> Run(Draw draw, uint32_t seed, Isa isa, bool skips, PackedWeights& packed) {
  Chain chain;
  chain.numbers = Numbers(seed);
  draw(chain);
  const int64_t arena_bytes = chain.description.arena_bytes;
  if (skips) SkipZeroSquares(chain);
  Engine engine(std::make_shared<Model>(chain.description, isa, packed), 1);
  const MapDescription& in = engine.model().maps()[kInput];
  const MapDescription& out = engine.model().maps()[kOutput];
  const auto pixel = [](const MapDescription& map) {
    return static_cast<size_t>(map.channels) * (map.is_float ? sizeof(float) : 1);
  };
  const auto bytes = [&](const MapDescription& map) {
    return static_cast<size_t>(map.height) * static_cast<size_t>(map.width) * pixel(map);
  };
  auto input = Numbers(seed).Many<uint8_t>(bytes(in), 0, 255);
  std::vector<float> output(bytes(out) / sizeof(float) + 1);
  auto* output_bytes = reinterpret_cast<uint8_t*>(output.data());
  const External externals[] = {{kInput, input.data(), in.height},
                                {kOutput, output_bytes, out.height}};
  engine.Run(externals, 0, static_cast<int32_t>(engine.model().steps().size()));
  std::vector<uint8_t> all(engine.arena(), engine.arena() + arena_bytes);
  all.insert(all.end(), output_bytes, output_bytes + bytes(out));
  return all;
}

void Report(Draw draw, uint32_t seed, Isa isa, bool skips) {
  Chain chain;
  chain.numbers = Numbers(seed);
  draw(chain);
  std::printf("%s%s differs from the portable loops, seed %u\n", NameOf(isa),
              skips ? " that skips zero squares" : "", seed);
  for (const MapDescription& map : chain.description.maps) {
    std::printf("  %s: %d x %d x %d, zero point %d\n", map.name.c_str(), map.height, map.width,
                map.channels, map.zero_point);
  }
  for (const NodeDescription& node : chain.description.nodes) {
    std::printf("  %s:", node.op.c_str());
    for (const int32_t integer : node.integers) std::printf(" %d", integer);
    std::printf("\n");
  }
}

// How many of `count` networks give other bytes on some instruction set. All of them share packed
// filters, as engines of one process do: what differs in layout must not be taken for another's.
int DifferFromPortableLoops(Draw draw, uint32_t count) {
  int failures = 0;
  for (uint32_t seed = 1; seed <= count; ++seed) {
    PackedWeights packed;
    const std::vector<uint8_t> expected = Run(draw, seed, Isa::kPortable, false, packed);
    for (const Isa isa : kIsas) {
      if (!Runs(isa)) continue;
      for (const bool skips : {false, true}) {
        if (Run(draw, seed, isa, skips, packed) == expected) continue;
        if (failures++ == 0) Report(draw, seed, isa, skips);
      }
    }
  }
  return failures;
}

// Whether there is anything to compare: on x86 and ARM there must be, or the test would pass by
// doing nothing.
bool HasVectors() {
  return std::any_of(kIsas.begin() + 1, kIsas.end(), [](Isa isa) { return Runs(isa); });
}

int Main() {
  if (!HasVectors()) {
    std::printf("this processor runs nothing but the portable loops: nothing to compare\n");
    return 1;
  }
  const int failures = DifferFromPortableLoops(DrawConvolution, kConvolutions) +
                       DifferFromPortableLoops(DrawElementwise, kElementwise);
  if (failures > 0) std::printf("%d networks differ\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thinmaps

int main() { return thinmaps::Main(); }
