// SPDX-License-Identifier: Apache-2.0
// Convolution and transposed convolution, row by row, straight from the rows in the arena: without
// a copy of the input (no im2col). conv_row.h has the inner loops. Filters are held, packed; or
// coefficients are, and a step makes some blocks of filters of them in scratch, does all its rows
// with these, and goes on to the next blocks.
//
// acc = bias + sum w * (x - zx) is computed as (bias - zx * sum w) + sum w * x over raw bytes;
// virtual padding then is a pixel of zero points.
#include <array>
#include <vector>

#include "conv_filters.h"
#include "conv_row.h"
#include "conv_shape.h"
#include "filter_maker.h"
#include "filters.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostRows = 256;  // under a window, or under those that are done together

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
        maker_(MakerOf(blueprint)),
        filters_(maker_ ? maker_->held() : PackFilters(blueprint, shape, phases_)) {
    for (Phase& phase : phases_) phase.sources = {};
    padding_.fill(static_cast<uint8_t>(in_.zero_point));
  }

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return filters_->bytes(); }

  // Of parts that make their own filters, as many as have scratch for a block.
  int32_t most_parts(Rows rows) const override {
    return maker_ ? maker_->MostBlocks(1) : Kernel::most_parts(rows);
  }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const auto [blocks, area] =
        maker_ ? ShareMaking(rows, part) : ShareConv(shape_, out_.width, rows, part);
    loops_.start(piece_bytes_);
    if (maker_) {
      RunMaking(memory, blocks, area, part);
    } else if (filters_->weights.size() > kFiltersInCache) {
      ForBlocks(blocks, loops_.blocks,
                [&, &area = area](Range some) { RunRows({memory}, some, area); });
    } else {
      RunRows({memory}, blocks, area);
    }
    loops_.stop();
  }

 private:
  // Where the rows are, and the filters that were made, from those of block `first_made` on.
  struct Job {
    const Memory& memory;
    const int8_t* made = nullptr;
    int32_t first_made = 0;
  };

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

  std::unique_ptr<const FilterMaker> MakerOf(const Blueprint& blueprint) const {
    if (blueprint.node.op != "coded_conv") return nullptr;
    return std::make_unique<const FilterMaker>(blueprint, shape_, phases_[0]);
  }

  // By blocks where parts get as many: else each makes the filters of all.
  ConvShare ShareMaking(Rows rows, Part part) const {
    const Range blocks = Share(shape_.blocks(), part);
    if (shape_.blocks() % part.count == 0 || shape_.blocks() >= kManyRows * part.count) {
      return {blocks, {{rows.first, rows.first + rows.count}, {0, out_.width}}};
    }
    return ShareConv(shape_, out_.width, rows, part);
  }

  void RunMaking(const Memory& memory, Range blocks, const Area& area, Part part) const {
    int8_t* made = maker_->Scratch(memory, part);
    ForBlocks(blocks, maker_->MostBlocks(part.count), [&](Range some) {
      for (int32_t block = some.first; block < some.stop; ++block) {
        maker_->Make(block, made + (block - some.first) * maker_->block_bytes());
      }
      RunRows({memory, made, some.first}, some, area);
    });
  }

  // At most `most` blocks of one group at a time.
  template <typename Do>
  void ForBlocks(Range blocks, int32_t most, Do each) const {
    for (int32_t block = blocks.first; block < blocks.stop;) {
      const int32_t in_group = shape_.group_blocks() - block % shape_.group_blocks();
      const int32_t count = std::min({most, blocks.stop - block, in_group});
      each(Range{block, block + count});
      block += count;
    }
  }

  void RunRows(const Job& job, Range blocks, const Area& area) const {
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
        ForBlocks(blocks, loops_.blocks,
                  [&](Range some) { RunRow(job, rows, {first, pixels}, across, some); });
      }
    }
  }

  struct Columns {
    int32_t first, count;
  };

  // One row, or several of one phase.
  void RunRow(const Job& job, Range rows, Columns columns, int32_t across, Range blocks) const {
    const int32_t down = down_.Phase(rows.first);
    const auto index = static_cast<size_t>(down * across_.phases + across);
    const Phase& phase = phases_[index];
    const int32_t group = blocks.first / shape_.group_blocks();
    const int32_t in_group = blocks.first % shape_.group_blocks() * kBlockChannels;
    const int32_t channel = group * shape_.group_outputs + in_group;
    const int32_t many = (blocks.stop - blocks.first) * kBlockChannels;
    const MapView& input = job.memory.maps[input_];
    const MapView& output = job.memory.maps[output_];
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
        .filters = job.made ? job.made + (blocks.first - job.first_made) * phase.block_bytes
                            : FiltersOf(index, blocks.first),
        .block_filters = phase.block_bytes,
        .orders = loops_.sorts_quads ? Orders(index, first_block) : nullptr,
        .far_filters = !maker_ && filters_->weights.size() > kNearFilters,
        .bias = filters_->bias.data() + phase_block * kBlockChannels,
        .multiplier = filters_->multiplier.data() + first_block * kBlockChannels,
        .channels = std::min(many, shape_.group_outputs - in_group),
        .rounding = rounding_,
        .is_float = out_.is_float,
        .out = out,
        .out_step = ptrdiff_t{across_.phases} * output.pixel_bytes,
    });
  }

  const int8_t* FiltersOf(size_t phase, int32_t block) const {
    return filters_->weights.data() + filters_->phase_offset[phase] +
           Index(block) * static_cast<size_t>(phases_[phase].block_bytes);
  }

  const QuadOrder* Orders(size_t phase, size_t block) const {
    if (maker_) return maker_->orders();
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
  std::unique_ptr<const FilterMaker> maker_;  // where filters are made
  std::shared_ptr<const Filters> filters_;
  std::array<uint8_t, kPieceBytes> padding_;
};

// Integers: the window, groups, low, high; of coded filters also the codes.
std::unique_ptr<const Kernel> Make(const Blueprint& blueprint, bool transposed) {
  const bool coded = blueprint.node.op == "coded_conv";
  constexpr size_t kIntegers = Window::kIntegers + 3;
  blueprint.NeedInputs(1);
  blueprint.NeedIntegers(coded ? std::max(blueprint.node.integers.size(), kIntegers) : kIntegers);
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
  if (!coded) CheckFilters(blueprint, filter_bytes);
  const Rounding rounding = RoundThenShift(out.zero_point, node.integers[11], node.integers[12]);
  blueprint.Need(node.state < 0 || !transposed, "no scratch");
  const bool has_scratch = node.state >= 0 && !coded;
  if (has_scratch && node.winograd_rows <= 0) {
    return MakeSparseConv(blueprint, shape, window, rounding);
  }
  const auto axis = transposed ? Axis::Transposed : Axis::Sliding;
  const auto direct = [&] {
    return std::make_unique<Convolution>(
        blueprint, shape,
        axis(window.kernel[0], window.stride[0], window.dilation[0], window.pads[0]),
        axis(window.kernel[1], window.stride[1], window.dilation[1], window.pads[1]), rounding);
  };
  if (!has_scratch) return direct();
  return MakeWinogradConv(blueprint, shape, window, rounding,
                          node.winograd_rows > 1 ? direct() : nullptr);
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

std::unique_ptr<const Kernel> MakeCodedConv(const Blueprint& blueprint) {
  return Make(blueprint, false);
}

std::unique_ptr<const Kernel> MakeConvTranspose(const Blueprint& blueprint) {
  return Make(blueprint, true);
}

}  // namespace thinmaps
