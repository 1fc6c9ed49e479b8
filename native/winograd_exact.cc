// SPDX-License-Identifier: Apache-2.0
// A 3x3 convolution of stride 1 by Winograd's algorithm in integers, with the bits of the direct
// one. winograd_exact_loops.h has the steps of a block of tiles; winograd/exact.py is the reference
// in NumPy, and derives the matrices.
//
// Bounds. Points of inputs lie in -12750 .. 17340: bytes times the positive and the negative
// entries of B^T, whose rows have 2 to 8 of either. Filters are made integers by their rows'
// denominators; what is left of 24 is in A^T for the point at infinity. Rows of G then sum to at
// most 12, so that filters have at most 144 * 128 = 18432. Sums over channels may wrap: modulo 2^32
// they are right, and so are 576 times the outputs, and 64 times after the inverse of 9. With Y =
// sum w x in
// [-255 N, 255 P] for the sums P and N of a filter's weights above and below 0,
//
//     64 (Y + 255 N) lies in [0, 64 * 255 * (P + N)]     which is below 2^32 where P + N < 263173
//
// and is then known, so that a shift gives Y + 255 N itself. Every channel is checked for this.
//
// Inputs of rows and columns that no output of a tile needs are replaced by zero points: they would
// cancel, but may be written by others at the same time.
//
// A tile costs the same whether 4 of its rows are needed or 1. Steps whose tiles have fewer than
// `winograd_rows` of them, on average, are left to the direct kernel.
#include <array>
#include <utility>
#include <vector>

#include "conv_shape.h"
#include "filters.h"
#include "winograd_exact_loops.h"

namespace thinmaps {
namespace {

constexpr int32_t kFilterSide = 3;
// Rows of G times kRowScale, whole; those of infinity by kInfinityScale less.
constexpr int32_t kRowScale = 24;
constexpr int32_t kFilterRows[kTileInputs][kFilterSide] = {
    {6, 0, 0}, {4, 4, 4}, {4, -4, 4}, {1, 2, 4}, {1, -2, 4}, {0, 0, kRowScale / kInfinityScale}};
static_assert(static_cast<uint32_t>(kRowScale* kRowScale >> kScaleBits) * kInverse == 1);
// P + N of a filter.
constexpr int64_t kLargestWeightSum = (int64_t{1} << (32 - kScaleBits)) / 255;
// Tiles that are transformed, multiplied and transformed back together.
constexpr int32_t kMostBlockTiles = 24;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kLargestTiles = int64_t{1} << 30;  // of a map
// Fewer tiles for each thread, and panels are shared instead.
constexpr int32_t kSharedTiles = 12;

int32_t UpTo(int32_t count, int32_t step) { return (count + step - 1) / step; }

// Filters [panel][point][block][pair][16][2] in 16 bits.
class PointPacker {
 public:
  PointPacker(const Blueprint& blueprint, const Shape& shape, Filters& filters)
      : blueprint_(blueprint), shape_(shape), filters_(filters) {}

  void Pack() {
    const int32_t blocks = shape_.group_blocks();
    const auto channels = static_cast<size_t>(blocks * kBlockChannels);
    filters_.low.resize(channels);
    filters_.bias.resize(channels);
    filters_.multiplier.resize(channels);
    filters_.points.resize(static_cast<size_t>(blocks * kTilePoints * BlockFilters(Pairs())));
    for (int32_t k = 0; k < shape_.group_outputs; ++k) {
      AddSums(k);
      for (int32_t c = 0; c < shape_.group_inputs; ++c) AddPoints(k, c);
    }
  }

 private:
  int32_t Pairs() const { return UpTo(shape_.group_inputs, kPair); }

  int32_t Weight(int32_t output, int32_t channel, int32_t row, int32_t column) const {
    return blueprint_.node.weights[shape_.FilterIndex(output, channel, row, column)];
  }

  // low = bias - z sum w - 255 N; what is shifted gets 64 * 255 N.
  void AddSums(int32_t output) {
    const auto k = static_cast<size_t>(output);
    int64_t above = 0, below = 0;
    for (int32_t c = 0; c < shape_.group_inputs; ++c) {
      for (int32_t tap = 0; tap < kFilterSide * kFilterSide; ++tap) {
        const int32_t w = Weight(output, c, tap / kFilterSide, tap % kFilterSide);
        (w > 0 ? above : below) += w;
      }
    }
    blueprint_.Need(above - below <= kLargestWeightSum,
                    "filters whose weights sum to at most " + std::to_string(kLargestWeightSum) +
                        " for Winograd's algorithm; output channel " + std::to_string(output) +
                        " has " + std::to_string(above - below));
    const auto wrapped = [](int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); };
    const int64_t zero_point = blueprint_.input(0).zero_point;
    const int64_t bias = blueprint_.node.bias[k];
    filters_.low[k] = wrapped(bias - zero_point * (above + below) + 255 * below);
    filters_.bias[k] = wrapped((-255 * below) << kScaleBits);
    filters_.multiplier[k] = blueprint_.node.multiplier[k];
  }

  // All points of one output and input channel.
  void AddPoints(int32_t output, int32_t channel) {
    int32_t rows[kTileInputs][kFilterSide] = {};
    for (int32_t p = 0; p < kTileInputs; ++p) {
      for (int32_t s = 0; s < kFilterSide; ++s) {
        for (int32_t r = 0; r < kFilterSide; ++r) {
          rows[p][s] += kFilterRows[p][r] * Weight(output, channel, r, s);
        }
      }
    }
    const int32_t block = output / kBlockChannels;
    const int32_t panel = block / kPanelBlocks * kPanelBlocks;
    const int32_t width = std::min(kPanelBlocks, shape_.group_blocks() - panel);
    const auto index = [](int32_t i) { return static_cast<size_t>(i); };
    const auto block_filters = static_cast<size_t>(BlockFilters(Pairs()));
    const size_t start = index(panel * kTilePoints + block - panel) * block_filters;
    const int32_t line = channel / kPair * kBlockChannels + output % kBlockChannels;
    const size_t place = start + index(line * kPair + channel % kPair);
    for (int32_t point = 0; point < kTilePoints; ++point) {
      int32_t sum = 0;
      for (int32_t s = 0; s < kFilterSide; ++s) {
        sum += rows[point / kTileInputs][s] * kFilterRows[point % kTileInputs][s];
      }
      filters_.points[place + index(point * width) * block_filters] = static_cast<int16_t>(sum);
    }
  }

  const Blueprint& blueprint_;
  const Shape& shape_;
  Filters& filters_;
};

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Shape& shape) {
  const std::string layout = "points";
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  PointPacker(blueprint, shape, *filters).Pack();
  return ShareFilters(blueprint, layout, std::move(filters));
}

class WinogradConvolution final : public Kernel {
 public:
  WinogradConvolution(const Blueprint& blueprint, const Shape& shape, const Window& window,
                      const Rounding& rounding, std::unique_ptr<const Kernel> direct)
      : loops_(blueprint.winograd_loops),
        shape_(shape),
        window_(window),
        rounding_(rounding),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        channels_(UpTo(shape.group_inputs, kPointRun) * kPointRun),
        panels_(UpTo(shape.group_blocks(), kPanelBlocks)),
        scratch_(Scratch(blueprint)),
        filters_(Pack(blueprint, shape)),
        padding_(static_cast<size_t>(shape.group_inputs), static_cast<uint8_t>(in_.zero_point)),
        least_rows_(blueprint.node.winograd_rows),
        direct_(std::move(direct)) {}

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override {
    return filters_->bytes() + (direct_ ? direct_->weights_bytes() : 0);
  }

  // As many as have scratch for a tile.
  int32_t most_parts(Rows rows) const override {
    if (IsThin(rows)) return direct_->most_parts(rows);
    const int32_t tiles = TileRows(rows) * TileColumns();
    return std::min(tiles, static_cast<int32_t>(scratch_.slot_bytes / TileBytes()));
  }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    if (IsThin(rows)) return direct_->Run(memory, rows, part);
    const int32_t tiles = TileRows(rows) * TileColumns();
    const bool by_tiles = tiles >= part.count * kSharedTiles || panels_ < part.count;
    const Range all = by_tiles ? Share(tiles, part) : Range{0, tiles};
    const Range panels = by_tiles ? Range{0, panels_} : Share(panels_, part);
    const int64_t room = scratch_.slot_bytes / part.count / TileBytes();
    const auto most = static_cast<int32_t>(std::min<int64_t>(room, kMostBlockTiles));
    auto* scratch = memory.arena + scratch_.offset + part.index * room * TileBytes();
    // Blocks of tiles as equal as can be.
    const int32_t blocks = UpTo(all.stop - all.first, most);
    for (int32_t i = 0; i < blocks; ++i) {
      const Range some = Share(all.stop - all.first, {i, blocks});
      RunBlock(memory, rows, {all.first + some.first, all.first + some.stop}, panels, scratch);
    }
  }

 private:
  bool IsThin(Rows rows) const { return direct_ && rows.count < TileRows(rows) * least_rows_; }
  static int32_t TileRows(Rows rows) { return UpTo(rows.count, kTileOutputs); }
  int32_t TileColumns() const { return UpTo(out_.width, kTileOutputs); }
  int32_t PanelChannels() const {
    return std::min(kPanelBlocks, shape_.group_blocks()) * kBlockChannels;
  }

  // Points of a tile, and its sums for a panel.
  ptrdiff_t TileBytes() const {
    return ptrdiff_t{kTilePoints} *
           (channels_ * ptrdiff_t{sizeof(int16_t)} + PanelChannels() * ptrdiff_t{sizeof(int32_t)});
  }

  const BufferDescription& Scratch(const Blueprint& blueprint) {
    const auto state = static_cast<size_t>(blueprint.node.state);
    const auto& buffers = blueprint.description.buffers;
    const bool fits = blueprint.node.state >= 0 && state < buffers.size() &&
                      buffers[state].slots == 1 && buffers[state].slot_bytes >= TileBytes() &&
                      buffers[state].offset % kLineBytes == 0;
    blueprint.Need(fits, "scratch of " + std::to_string(TileBytes()) +
                             " bytes or more, from a multiple of 64 bytes on");
    return buffers[state];
  }

  struct Tile {
    int32_t row, column;    // of its first output
    int32_t rows, columns;  // that it has
  };

  Tile Find(Rows rows, int32_t tile) const {
    const int32_t row = tile / TileColumns() * kTileOutputs;
    const int32_t column = tile % TileColumns() * kTileOutputs;
    return {rows.first + row, column, std::min(kTileOutputs, rows.count - row),
            std::min(kTileOutputs, out_.width - column)};
  }

  void RunBlock(const Memory& memory, Rows rows, Range tiles, Range panels,
                uint8_t* scratch) const {
    const int32_t count = tiles.stop - tiles.first;
    const ptrdiff_t tile_points = ptrdiff_t{kTilePoints} * channels_;
    auto* points = reinterpret_cast<int16_t*>(scratch);
    auto* sums = reinterpret_cast<int32_t*>(points + count * tile_points);
    for (int32_t t = 0; t < count; ++t) {
      TransformTile(memory, Find(rows, tiles.first + t), points + t * tile_points);
    }
    for (int32_t panel = panels.first; panel < panels.stop; ++panel) {
      MultiplyPanel(points, count, panel, sums);
      for (int32_t t = 0; t < count; ++t) {
        FinishTile(memory, Find(rows, tiles.first + t), panel,
                   sums + t * ptrdiff_t{kTilePoints} * PanelChannels());
      }
    }
  }

  // The pixels under a tile; zero points outside of the map and where no output needs them.
  void TransformTile(const Memory& memory, const Tile& tile, int16_t* points) const {
    const MapView& input = memory.maps[input_];
    std::array<const uint8_t*, kTilePoints> pixels;
    pixels.fill(padding_.data());
    const int32_t top = tile.row - window_.pads[0];
    const int32_t left = tile.column - window_.pads[1];
    const int32_t bottom = std::min(top + tile.rows + kFilterSide - 1, in_.height);
    const int32_t right = std::min(left + tile.columns + kFilterSide - 1, in_.width);
    for (int32_t y = std::max(top, 0); y < bottom; ++y) {
      const uint8_t* row = input.Row(y);
      for (int32_t x = std::max(left, 0); x < right; ++x) {
        pixels[static_cast<size_t>((y - top) * kTileInputs + x - left)] =
            row + ptrdiff_t{x} * input.pixel_bytes;
      }
    }
    loops_.transform({pixels.data(), shape_.group_inputs, points});
  }

  void MultiplyPanel(const int16_t* points, int32_t tiles, int32_t panel, int32_t* sums) const {
    const int32_t blocks = std::min(kPanelBlocks, shape_.group_blocks() - panel * kPanelBlocks);
    const int32_t pairs = UpTo(shape_.group_inputs, kPair);
    const ptrdiff_t point_filters = blocks * BlockFilters(pairs);
    const int16_t* filters =
        filters_->points.data() + panel * kTilePoints * kPanelBlocks * BlockFilters(pairs);
    for (int32_t point = 0; point < kTilePoints; ++point) {
      loops_.multiply({
          .points = points + ptrdiff_t{point} * channels_,
          .tile_points = ptrdiff_t{kTilePoints} * channels_,
          .tiles = tiles,
          .filters = filters + point * point_filters,
          .pairs = pairs,
          .blocks = blocks,
          .sums = sums + ptrdiff_t{point} * PanelChannels(),
          .tile_sums = ptrdiff_t{kTilePoints} * PanelChannels(),
      });
    }
  }

  void FinishTile(const Memory& memory, const Tile& tile, int32_t panel,
                  const int32_t* sums) const {
    const MapView& output = memory.maps[output_];
    const int32_t first = panel * kPanelBlocks * kBlockChannels;
    const int32_t stop = std::min(first + kPanelBlocks * kBlockChannels, shape_.group_outputs);
    for (int32_t k = first; k < stop; k += kBlockChannels) {
      std::array<uint8_t*, kTileOutputs> out;
      for (int32_t i = 0; i < tile.rows; ++i) {
        out[static_cast<size_t>(i)] =
            output.Row(tile.row + i) + ptrdiff_t{tile.column} * output.pixel_bytes + k;
      }
      loops_.finish({
          .sums = sums + k - first,
          .point_sums = PanelChannels(),
          .low = filters_->low.data() + k,
          .offset = reinterpret_cast<const uint32_t*>(filters_->bias.data()) + k,
          .multiplier = filters_->multiplier.data() + k,
          .channels = std::min(kBlockChannels, stop - k),
          .rounding = rounding_,
          .rows = tile.rows,
          .columns = tile.columns,
          .out = out.data(),
          .out_step = output.pixel_bytes,
      });
    }
  }

  const WinogradExactLoops& loops_;
  Shape shape_;
  Window window_;
  Rounding rounding_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  int32_t channels_;  // of inputs, filled up to whole runs
  int32_t panels_;
  BufferDescription scratch_;
  std::shared_ptr<const Filters> filters_;
  std::vector<uint8_t> padding_;
  int32_t least_rows_;
  std::unique_ptr<const Kernel> direct_;
};

}  // namespace

std::unique_ptr<const Kernel> MakeWinogradConv(const Blueprint& blueprint, const Shape& shape,
                                               const Window& window, const Rounding& rounding,
                                               std::unique_ptr<const Kernel> direct) {
  const bool plain = window.kernel[0] == kFilterSide && window.kernel[1] == kFilterSide &&
                     window.stride[0] == 1 && window.stride[1] == 1 && window.dilation[0] == 1 &&
                     window.dilation[1] == 1 && shape.groups == 1;
  blueprint.Need(plain, "3x3 filters, stride 1, dilation 1 and one group for Winograd's algorithm");
  const MapDescription& out = blueprint.output();
  const int64_t tiles = int64_t{UpTo(out.height, kTileOutputs)} * UpTo(out.width, kTileOutputs);
  blueprint.Need(tiles <= kLargestTiles, "at most 2^30 tiles for Winograd's algorithm");
  blueprint.Need(!out.is_float, "an output of bytes for Winograd's algorithm");
  return std::make_unique<WinogradConvolution>(blueprint, shape, window, rounding,
                                               std::move(direct));
}

}  // namespace thinmaps
