// SPDX-License-Identifier: Apache-2.0
// Convolution and transposed convolution, row by row, straight from the rows in the arena: without
// a copy of the input (no im2col, no scratch). conv_row.h has the inner loops.
//
// acc = bias + sum w * (x - zx) is computed as (bias - zx * sum w) + sum w * x over raw bytes;
// virtual padding then is a pixel of zero points.
#include <array>
#include <vector>

#include "conv_row.h"
#include "conv_shape.h"
#include "filters.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostRows = 256;  // under a window, or under those that are done together

int32_t WholeQuads(int32_t bytes) { return (bytes + kQuad - 1) / kQuad * kQuad; }

// One filter value: of which tap and input channel.
struct Source {
  int32_t tap_row, tap_column, channel;
};

// The pieces of one phase, and where each byte of a piece comes from.
struct Phase {
  std::vector<Piece> pieces;
  std::vector<Source> sources;  // of all pieces, byte after byte
  ptrdiff_t block_bytes = 0;    // of one block's filters

  // Appends a run of bytes in pieces; filters of a piece are filled up to at least `least` bytes.
  void Add(int32_t row, ptrdiff_t offset, const std::vector<Source>& run, int32_t least) {
    for (size_t first = 0; first < run.size(); first += kPieceBytes) {
      const size_t count = std::min(run.size() - first, size_t{kPieceBytes});
      const auto bytes = static_cast<int32_t>(count);
      pieces.push_back({row, bytes, offset + static_cast<ptrdiff_t>(first), block_bytes});
      const auto at = run.begin() + static_cast<ptrdiff_t>(first);
      sources.insert(sources.end(), at, at + bytes);
      const int32_t filled = std::max(least, WholeQuads(bytes));
      block_bytes += filled * kBlockChannels;
    }
  }
};

// Columns of a window join in one run of bytes where pixels lie without gaps.
Phase Cut(const Shape& shape, const std::vector<Axis::Tap>& rows,
          const std::vector<Axis::Tap>& columns, bool joins, int32_t pixel_bytes, int32_t least) {
  Phase phase;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<Source> run;
    ptrdiff_t offset = 0;
    for (size_t s = 0; s < columns.size(); ++s) {
      if (run.empty()) offset = ptrdiff_t{columns[s].offset} * pixel_bytes;
      for (int32_t c = 0; c < shape.group_inputs; ++c) {
        run.push_back({rows[r].tap, columns[s].tap, c});
      }
      const bool neighbour =
          s + 1 < columns.size() && columns[s + 1].offset == columns[s].offset + 1;
      if (joins && neighbour) continue;
      phase.Add(static_cast<int32_t>(r), offset, run, least);
      run.clear();
    }
  }
  return phase;
}

// Filters [phase][block][piece][quad][16][4], bias [phase][block][16], multipliers [block][16].
struct Packer {
  const NodeDescription& node;
  const Shape& shape;
  int32_t zero_point;  // of bytes as they are multiplied: less ConvLoops::shift
  bool sorts_quads;
  Filters& filters;

  int32_t Weight(int32_t output, const Source& source) const {
    return node
        .weights[shape.FilterIndex(output, source.channel, source.tap_row, source.tap_column)];
  }

  void PackBlock(const Phase& phase, int32_t block) {
    const int32_t first = block % shape.group_blocks() * kBlockChannels;
    const int32_t base = block / shape.group_blocks() * shape.group_outputs + first;
    const int32_t channels = std::min(kBlockChannels, shape.group_outputs - first);
    const size_t start = filters.weights.size();
    filters.weights.resize(start + static_cast<size_t>(phase.block_bytes));
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      // Sums wrap on the way; the finished sum fits.
      auto bias = static_cast<uint32_t>(PerChannel(node.bias, block, k));
      const Source* source = phase.sources.data();
      for (const Piece& piece : phase.pieces) {
        int8_t* to = filters.weights.data() + start + piece.filters;
        for (int32_t i = 0; i < piece.bytes; ++i, ++source) {
          const int32_t w = k < channels ? Weight(base + k, *source) : 0;
          to[(i / kQuad * kBlockChannels + k) * kQuad + i % kQuad] = static_cast<int8_t>(w);
          bias -= static_cast<uint32_t>(zero_point * w);
        }
      }
      filters.bias.push_back(static_cast<int32_t>(bias));
    }
    if (!sorts_quads) return;
    for (const Piece& piece : phase.pieces) {
      int8_t* quads = filters.weights.data() + start + piece.filters;
      filters.orders.push_back(SortQuads(quads, WholeQuads(piece.bytes) / kQuad));
    }
  }

  template <typename T>
  T PerChannel(const std::vector<T>& values, int32_t block, int32_t k) const {
    const int32_t in_group = block % shape.group_blocks() * kBlockChannels + k;
    const int32_t group = block / shape.group_blocks();
    if (in_group >= shape.group_outputs) return T{0};
    return values[static_cast<size_t>(group * shape.group_outputs + in_group)];
  }
};

// Other instruction sets, and maps with gaps between pixels, need other layouts.
std::string LayoutOf(const Phase& phase, const ConvLoops& loops) {
  return std::to_string(phase.pieces.size()) + " pieces of " + std::to_string(phase.block_bytes) +
         (loops.sorts_quads ? ", sorted" : "") + (loops.shift != 0 ? ", shifted" : "");
}

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Shape& shape,
                                    const std::vector<Phase>& phases) {
  const ConvLoops& loops = blueprint.conv_loops;
  const std::string layout = LayoutOf(phases[0], loops);
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  size_t bytes = 0;
  for (const Phase& phase : phases) bytes += static_cast<size_t>(phase.block_bytes);
  filters->weights.reserve(static_cast<size_t>(shape.blocks()) * bytes);
  const int32_t zero_point = blueprint.input(0).zero_point - loops.shift;
  Packer packer{blueprint.node, shape, zero_point, loops.sorts_quads, *filters};
  for (const Phase& phase : phases) {
    filters->phase_orders.push_back(filters->orders.size());
    filters->phase_offset.push_back(filters->weights.size());
    for (int32_t block = 0; block < shape.blocks(); ++block) packer.PackBlock(phase, block);
  }
  for (int32_t block = 0; block < shape.blocks(); ++block) {
    for (int32_t k = 0; k < kBlockChannels; ++k) {
      filters->multiplier.push_back(packer.PerChannel(blueprint.node.multiplier, block, k));
    }
  }
  return ShareFilters(blueprint, layout, std::move(filters));
}

class Convolution final : public Kernel {
 public:
  Convolution(const Blueprint& blueprint, const Shape& shape, Axis down, Axis across,
              const Rounding& rounding)
      : loops_(blueprint.conv_loops),
        shape_(shape),
        down_(std::move(down)),
        across_(std::move(across)),
        rounding_(rounding),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        joins_(in_.pixel_bytes == shape.group_inputs),
        piece_bytes_(std::min(
            kPieceBytes, WholeQuads(shape.group_inputs * (joins_ ? shape.kernel_columns : 1)))),
        phases_(CutAll()),
        filters_(Pack(blueprint, shape, phases_)) {
    for (Phase& phase : phases_) phase.sources = {};
    padding_.fill(static_cast<uint8_t>(in_.zero_point));
  }

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return filters_->bytes(); }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const auto [blocks, area] = ShareConv(shape_, out_.width, rows, part);
    loops_.start(piece_bytes_);
    if (filters_->weights.size() > kFiltersInCache) {
      ForBlocks(blocks, [&, &area = area](Range some) { RunRows(memory, some, area); });
    } else {
      RunRows(memory, blocks, area);
    }
    loops_.stop();
  }

 private:
  static constexpr size_t kNearFilters = 1u << 17;
  static constexpr size_t kFiltersInCache = 1u << 20;  // more are read once per step, not per row

  std::vector<Phase> CutAll() const {
    std::vector<Phase> phases;
    for (const auto& rows : down_.taps) {
      for (const auto& columns : across_.taps) {
        const int32_t least = loops_.equal_pieces ? piece_bytes_ : 0;
        phases.push_back(Cut(shape_, rows, columns, joins_, in_.pixel_bytes, least));
      }
    }
    return phases;
  }

  // As many blocks of one group at a time as a row can do.
  template <typename Do>
  void ForBlocks(Range blocks, Do each) const {
    for (int32_t block = blocks.first; block < blocks.stop;) {
      const int32_t in_group = shape_.group_blocks() - block % shape_.group_blocks();
      const int32_t count = std::min({loops_.blocks, blocks.stop - block, in_group});
      each(Range{block, block + count});
      block += count;
    }
  }

  void RunRows(const Memory& memory, Range blocks, const Area& area) const {
    const bool narrow = area.columns.stop - area.columns.first <= loops_.narrow;
    const int32_t many = narrow && !across_.transposed ? kMostRows / shape_.kernel_rows : 1;
    for (int32_t row = area.rows.first; row < area.rows.stop; row += many) {
      const Range rows{row, std::min(row + many, area.rows.stop)};
      for (int32_t across = 0; across < across_.phases; ++across) {
        int32_t first = area.columns.first;
        while (first < area.columns.stop && across_.Phase(first) != across) ++first;
        if (first == area.columns.stop) continue;
        const int32_t left = area.columns.stop - first;
        const int32_t pixels = (left + across_.phases - 1) / across_.phases;
        ForBlocks(blocks, [&](Range some) { RunRow(memory, rows, {first, pixels}, across, some); });
      }
    }
  }

  struct Columns {
    int32_t first, count;
  };

  // One row, or several of one phase.
  void RunRow(const Memory& memory, Range rows, Columns columns, int32_t across,
              Range blocks) const {
    const int32_t down = down_.Phase(rows.first);
    const auto index = static_cast<size_t>(down * across_.phases + across);
    const Phase& phase = phases_[index];
    const int32_t group = blocks.first / shape_.group_blocks();
    const int32_t in_group = blocks.first % shape_.group_blocks() * kBlockChannels;
    const int32_t channel = group * shape_.group_outputs + in_group;
    const int32_t many = (blocks.stop - blocks.first) * kBlockChannels;
    const MapView& input = memory.maps[input_];
    const MapView& output = memory.maps[output_];
    const ptrdiff_t item_bytes = out_.is_float ? sizeof(float) : 1;
    const auto window_rows = static_cast<int32_t>(down_.taps[Index(down)].size());
    const uint8_t* under[kMostRows];
    uint8_t* out[kMostRows];
    for (int32_t row = rows.first; row < rows.stop; ++row) {
      const int32_t i = row - rows.first;
      FindRows(input, row, down, group, under + i * window_rows);
      out[i] =
          output.Row(row) + ptrdiff_t{columns.first} * output.pixel_bytes + item_bytes * channel;
    }
    const int32_t step = across_.transposed ? 1 : across_.stride;
    const size_t first_block = Index(blocks.first);
    const size_t phase_block = index * static_cast<size_t>(shape_.blocks()) + first_block;
    loops_.row({
        .rows = under,
        .window_rows = window_rows,
        .row_bytes = ptrdiff_t{in_.width - 1} * input.pixel_bytes + shape_.group_inputs,
        .padding = padding_.data(),
        .first = ptrdiff_t{across_.Base(columns.first)} * input.pixel_bytes,
        .step = ptrdiff_t{step} * input.pixel_bytes,
        .pixels = columns.count,
        .out_rows = rows.stop - rows.first,
        .pieces = phase.pieces.data(),
        .piece_count = static_cast<int32_t>(phase.pieces.size()),
        .piece_bytes = piece_bytes_,
        .blocks = blocks.stop - blocks.first,
        .filters = filters_->weights.data() + filters_->phase_offset[index] +
                   first_block * static_cast<size_t>(phase.block_bytes),
        .block_filters = phase.block_bytes,
        .orders = loops_.sorts_quads ? Orders(index, first_block) : nullptr,
        .far_filters = filters_->weights.size() > kNearFilters,
        .bias = filters_->bias.data() + phase_block * kBlockChannels,
        .multiplier = filters_->multiplier.data() + first_block * kBlockChannels,
        .channels = std::min(many, shape_.group_outputs - in_group),
        .rounding = rounding_,
        .is_float = out_.is_float,
        .out = out,
        .out_step = ptrdiff_t{across_.phases} * output.pixel_bytes,
    });
  }

  const QuadOrder* Orders(size_t phase, size_t block) const {
    const size_t first = filters_->phase_orders[phase] + block * phases_[phase].pieces.size();
    return filters_->orders.data() + first;
  }

  static size_t Index(int32_t i) { return static_cast<size_t>(i); }

  // The rows under the window of output row `row`, from a group's first channel on.
  void FindRows(const MapView& input, int32_t row, int32_t down, int32_t group,
                const uint8_t** rows) const {
    for (const Axis::Tap& tap : down_.taps[Index(down)]) {
      const int32_t place = down_.Base(row) + tap.offset;
      const bool inside = place >= 0 && place < in_.height;
      *rows++ = inside ? input.Row(place) + group * shape_.group_inputs : nullptr;
    }
  }

  const ConvLoops& loops_;
  Shape shape_;
  Axis down_;
  Axis across_;
  Rounding rounding_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  bool joins_;           // pixels lie without gaps
  int32_t piece_bytes_;  // of the longest piece, in whole quads
  std::vector<Phase> phases_;
  std::shared_ptr<const Filters> filters_;
  std::array<uint8_t, kPieceBytes> padding_;
};

// Integers: the window, groups, low, high.
std::unique_ptr<const Kernel> Make(const Blueprint& blueprint, bool transposed) {
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(Window::kIntegers + 3);
  blueprint.NeedBytes(blueprint.input(0));
  const NodeDescription& node = blueprint.node;
  const Window window = ReadWindow(blueprint);
  const int32_t groups = node.integers[10];
  const MapDescription& in = blueprint.input(0);
  const MapDescription& out = blueprint.output();
  blueprint.Need(groups >= 1 && in.channels % groups == 0 && out.channels % groups == 0,
                 "groups that divide its channels, got " + std::to_string(groups));
  const Shape shape{groups, in.channels / groups, out.channels / groups, window.kernel[0],
                    window.kernel[1]};
  const size_t filter_bytes =
      static_cast<size_t>(shape.group_inputs) * static_cast<size_t>(shape.taps());
  blueprint.Need(shape.kernel_rows <= kMostRows,
                 "at most 256 filter rows, got " + std::to_string(shape.kernel_rows));
  CheckFilters(blueprint, filter_bytes);
  const Rounding rounding = RoundThenShift(out.zero_point, node.integers[11], node.integers[12]);
  if (node.state >= 0) {
    blueprint.Need(!transposed, "no scratch");
    return MakeSparseConv(blueprint, shape, window, rounding);
  }
  const auto axis = transposed ? Axis::Transposed : Axis::Sliding;
  return std::make_unique<Convolution>(
      blueprint, shape,
      axis(window.kernel[0], window.stride[0], window.dilation[0], window.pads[0]),
      axis(window.kernel[1], window.stride[1], window.dilation[1], window.pads[1]), rounding);
}

bool IsDepthwise(const Blueprint& blueprint) {
  constexpr int64_t kMostTaps = 1024;
  const auto& integers = blueprint.node.integers;
  if (blueprint.node.inputs.size() != 1 || integers.size() != Window::kIntegers + 3) return false;
  const int32_t groups = integers[10];
  return groups > 1 && groups == blueprint.input(0).channels &&
         groups == blueprint.output().channels && !blueprint.output().is_float &&
         int64_t{integers[0]} * integers[1] <= kMostTaps;
}

}  // namespace

ConvShare ShareConv(const Shape& shape, int32_t width, Rows rows, Part part) {
  constexpr int32_t kSharedPixels = 32;  // less are not worth a thread
  const Range blocks{0, shape.blocks()};
  const bool wide = width >= part.count * kSharedPixels;
  if (wide || LargestShare(rows.count, part) <= LargestShare(shape.blocks(), part)) {
    return {blocks, ShareArea(rows, width, part)};
  }
  return {Share(shape.blocks(), part), {{rows.first, rows.first + rows.count}, {0, width}}};
}

std::unique_ptr<const Kernel> MakeConv(const Blueprint& blueprint) {
  return IsDepthwise(blueprint) ? MakeDepthwise(blueprint) : Make(blueprint, false);
}

std::unique_ptr<const Kernel> MakeConvTranspose(const Blueprint& blueprint) {
  return Make(blueprint, true);
}

}  // namespace thinmaps
