// SPDX-License-Identifier: Apache-2.0
// Winograd convolutions for Python: arrays are checked, and nothing is copied or converted.
#include "bind_winograd.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind_engine.h"
#include "winograd.h"

namespace nb = nanobind;

namespace thinmaps {
namespace {

using Map = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using MadeMap = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Line = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MadeLine = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kMostExtent = 1 << 24;
constexpr size_t kMostFloats = size_t{1} << 31;
constexpr size_t kMostChannels = 1 << 16;

void Require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::invalid_argument("winograd: " + otherwise);
}

int32_t CheckAlgorithm(int32_t algorithm) {
  Require(algorithm >= 0 && algorithm < kWinogradAlgorithms,
          "there is no algorithm " + std::to_string(algorithm));
  return algorithm;
}

int32_t Channels(size_t channels) {
  Require(channels >= 1 && channels <= kMostChannels,
          "channels are 1 to 65536, got " + std::to_string(channels));
  return static_cast<int32_t>(channels);
}

int32_t Extent(size_t extent) {
  Require(extent >= 1 && extent <= kMostExtent,
          "pictures, heights and widths are 1 to 2^24, got " + std::to_string(extent));
  return static_cast<int32_t>(extent);
}

// What an output has of `extent` rows or columns.
int32_t OutExtent(int32_t extent, int32_t before, int32_t after) {
  Require(before >= 0 && after >= 0 && before <= static_cast<int32_t>(kMostExtent) &&
              after <= static_cast<int32_t>(kMostExtent),
          "pads are 0 to 2^24");
  Require(extent + before + after >= 3, "a padded map has at least 3 rows and columns");
  return extent + before + after - 2;
}

template <typename Array>
bool Overlap(const MadeMap& y, const Array& other) {
  const std::less<const float*> before;
  return before(y.data(), other.data() + other.size()) && before(other.data(), y.data() + y.size());
}

std::vector<std::tuple<std::string, int32_t, int32_t>> Algorithms() {
  std::vector<std::tuple<std::string, int32_t, int32_t>> found;
  for (const WinogradSizes& sizes : WinogradAlgorithms()) {
    found.emplace_back(sizes.name, sizes.outputs, sizes.products);
  }
  return found;
}

int64_t FilterFloats(int32_t algorithm, const std::string& isa, size_t inputs, size_t outputs) {
  return WinogradFilterFloats(CheckAlgorithm(algorithm), IsaOf(isa), Channels(inputs),
                              Channels(outputs));
}

int64_t ScratchFloats(int32_t algorithm, const std::string& isa, size_t inputs, size_t outputs) {
  const Isa chosen = IsaOf(isa);
  const int32_t c = Channels(inputs), k = Channels(outputs);
  const int32_t tiles = WinogradBlockTiles(CheckAlgorithm(algorithm), chosen, c, k);
  return WinogradScratchFloats(algorithm, chosen, c, k, tiles);
}

void Pack(int32_t algorithm, const std::string& isa, const Map& weights, const MadeLine& packed) {
  Require(weights.shape(2) == 3 && weights.shape(3) == 3, "filters have 3x3 taps");
  const int64_t floats = FilterFloats(algorithm, isa, weights.shape(1), weights.shape(0));
  Require(packed.size() == static_cast<size_t>(floats),
          "transformed filters need " + std::to_string(floats) + " floats, got " +
              std::to_string(packed.size()));
  nb::gil_scoped_release released;
  PackWinogradFilters(algorithm, IsaOf(isa), weights.data(), static_cast<int32_t>(weights.shape(1)),
                      static_cast<int32_t>(weights.shape(0)), packed.data());
}

// `pads` are top, left, bottom, right.
void Convolve(int32_t algorithm, const std::string& isa, const Map& x, const Line& filters,
              const std::optional<Line>& bias, std::array<int32_t, 4> pads, bool relu,
              const MadeLine& scratch, const MadeMap& y) {
  const Isa chosen = IsaOf(isa);
  WinogradConv conv = {};
  conv.pictures = Extent(x.shape(0));
  conv.height = Extent(x.shape(1));
  conv.width = Extent(x.shape(2));
  conv.inputs = Channels(x.shape(3));
  conv.outputs = Channels(y.shape(3));
  conv.pad_top = pads[0];
  conv.pad_left = pads[1];
  conv.out_height = OutExtent(conv.height, pads[0], pads[2]);
  conv.out_width = OutExtent(conv.width, pads[1], pads[3]);
  const auto fits = [&](size_t i, int32_t extent) {
    return y.shape(i) == static_cast<size_t>(extent);
  };
  Require(fits(0, conv.pictures) && fits(1, conv.out_height) && fits(2, conv.out_width),
          "the output needs the pictures of the input, and " + std::to_string(conv.out_height) +
              "x" + std::to_string(conv.out_width) + " pixels");
  Require(x.size() < kMostFloats && y.size() < kMostFloats, "maps have less than 2^31 floats");
  Require(
      filters.size() == static_cast<size_t>(FilterFloats(algorithm, isa, x.shape(3), y.shape(3))),
      "filters were transformed for other channels, another algorithm or instruction set");
  Require(!bias || bias->size() == y.shape(3), "one bias is needed for each output channel");
  Require(
      scratch.size() >= static_cast<size_t>(ScratchFloats(algorithm, isa, x.shape(3), y.shape(3))),
      "scratch is smaller than winograd_scratch_floats says");
  Require(!Overlap(y, x) && !Overlap(y, filters) && !Overlap(y, scratch) &&
              !(bias && Overlap(y, *bias)),
          "the output lies on something that is read");
  conv.x = x.data();
  conv.filters = filters.data();
  conv.bias = bias ? bias->data() : nullptr;
  conv.relu = relu;
  conv.y = y.data();
  conv.block_tiles = WinogradBlockTiles(algorithm, chosen, conv.inputs, conv.outputs);
  conv.scratch = scratch.data();
  nb::gil_scoped_release released;
  WinogradLoopsFor(chosen).run[algorithm](conv);
}

}  // namespace

void BindWinograd(nb::module_& m) {
  using namespace nb::literals;
  m.def("winograd_algorithms", &Algorithms, "(name, outputs, products) in one dimension, of each.");
  m.def("winograd_filter_floats", &FilterFloats, "algorithm"_a, "isa"_a, "inputs"_a, "outputs"_a,
        "Floats that transformed filters take.");
  m.def("winograd_scratch_floats", &ScratchFloats, "algorithm"_a, "isa"_a, "inputs"_a, "outputs"_a,
        "Floats that a run needs beside its maps, whatever their size.");
  m.def("winograd_pack", &Pack, "algorithm"_a, "isa"_a, "weights"_a.noconvert(),
        "packed"_a.noconvert(), "Transform filters (k, c, 3, 3).");
  m.def("winograd_convolve", &Convolve, "algorithm"_a, "isa"_a, "x"_a.noconvert(),
        "filters"_a.noconvert(), "bias"_a.noconvert().none(), "pads"_a, "relu"_a,
        "scratch"_a.noconvert(), "y"_a.noconvert(),
        "Convolve maps (n, h, w, c); pads are top, left, bottom, right.");
}

}  // namespace thinmaps
