// SPDX-License-Identifier: Apache-2.0
// Convolution that skips the zero squares of its filters: 4 output by 4 input channels of one tap.
// sparse_row.h says how a tile of pixels is done.
//
// Rows under the window are laid in planes in scratch that the plan has set aside in the arena,
// a tile's columns of them at a time. The rows of a step then go down the tile's columns, so that
// a row that stays under the window is not laid again. Threads that share a step split the scratch:
// their tiles are narrower. Zero points are folded into the bias as in conv.cc.
#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "conv_shape.h"
#include "filters.h"
#include "sparse_row.h"

namespace thinmaps {
namespace {

constexpr int32_t kMostWindowRows = 16;
constexpr int32_t kMostShift = 255;
constexpr int32_t kMostPlanes = 1 << 16;
constexpr int32_t kChunkQuartets = kBlockChannels / kSquare;

int32_t Quartered(int32_t channels) { return (channels + kSquare - 1) / kSquare; }

// The planes of a row. With a stride, columns of a window lie in several of them: plane `phase` has
// every stride-th pixel, and a column is some pixels to the right in it.
struct Planes {
  int32_t quads;                // of a group's input channels
  std::vector<int32_t> phases;  // those of the stride that a filter column reads
  int32_t widest_shift = 0;

  Planes(const Shape& shape, const Window& window) : quads(Quartered(shape.group_inputs)) {
    for (int32_t s = 0; s < shape.kernel_columns; ++s) {
      const int32_t phase = s * window.dilation[1] % window.stride[1];
      if (std::find(phases.begin(), phases.end(), phase) == phases.end()) phases.push_back(phase);
      widest_shift = std::max(widest_shift, s * window.dilation[1] / window.stride[1]);
    }
  }

  int32_t count() const { return static_cast<int32_t>(phases.size()) * quads; }

  // Pixels of a plane under a tile of `vectors`.
  int32_t Pixels(int32_t vectors) const {
    return (vectors * kLanes + widest_shift + kLanes - 1) / kLanes * kLanes;
  }

  ptrdiff_t Bytes(int32_t vectors) const { return ptrdiff_t{count()} * Pixels(vectors) * kSquare; }

  SquarePlace Place(const Window& window, int32_t row, int32_t column, int32_t quad) const {
    const int32_t offset = column * window.dilation[1];
    const auto phase = std::find(phases.begin(), phases.end(), offset % window.stride[1]);
    const auto plane = static_cast<int32_t>(phase - phases.begin()) * quads + quad;
    return {static_cast<uint8_t>(row), static_cast<uint8_t>(offset / window.stride[1]),
            static_cast<uint16_t>(plane)};
  }
};

// Squares by quartets of output channels: those that can be multiplied in 16 bits first.
class SquarePacker {
 public:
  SquarePacker(const Blueprint& blueprint, const Shape& shape, const Window& window,
               const Planes& planes, Filters& filters)
      : node_(blueprint.node),
        zero_point_(blueprint.input(0).zero_point),
        shape_(shape),
        window_(window),
        planes_(planes),
        filters_(filters) {}

  // The quartet of the output channels from `first` on in a group.
  void Pack(int32_t group, int32_t first) {
    Quartet quartet{};
    channels_ = std::min(kSquare, shape_.group_outputs - first);
    first_ = group * shape_.group_outputs + first;
    for (int32_t k = 0; k < channels_; ++k) {
      const auto channel = static_cast<size_t>(first_ + k);
      quartet.bias[k] = node_.bias[channel];
      quartet.multiplier[k] = node_.multiplier[channel];
    }
    quartet.first = Count();
    AddSquares(quartet, true);
    quartet.wide = Count();
    AddSquares(quartet, false);
    quartet.stop = Count();
    filters_.quartets.push_back(quartet);
  }

 private:
  using Square = std::array<int8_t, kSquareBytes>;

  uint32_t Count() const { return static_cast<uint32_t>(filters_.places.size()); }

  // Row by row and quad by quad, so that the planes are read in their order.
  void AddSquares(Quartet& quartet, bool in_pairs) {
    for (int32_t r = 0; r < shape_.kernel_rows; ++r) {
      for (int32_t quad = 0; quad < planes_.quads; ++quad) {
        for (int32_t s = 0; s < shape_.kernel_columns; ++s) {
          const Square square = At(r, s, quad);
          if (square == Square{} || PlainPairsFit(square.data(), kSquare) != in_pairs) continue;
          filters_.places.push_back(planes_.Place(window_, r, s, quad));
          filters_.weights.insert(filters_.weights.end(), square.begin(), square.end());
          // Sums wrap on the way; the finished sum fits.
          for (int32_t i = 0; i < kSquareBytes; ++i) {
            const auto sum = static_cast<uint32_t>(quartet.bias[i / kSquare]);
            const auto part = static_cast<uint32_t>(zero_point_ * square[static_cast<size_t>(i)]);
            quartet.bias[i / kSquare] = static_cast<int32_t>(sum - part);
          }
        }
      }
    }
  }

  Square At(int32_t row, int32_t column, int32_t quad) const {
    Square square{};
    const int32_t inputs = std::min(kSquare, shape_.group_inputs - quad * kSquare);
    for (int32_t k = 0; k < channels_; ++k) {
      for (int32_t c = 0; c < inputs; ++c) {
        const size_t from = shape_.FilterIndex(first_ + k, quad * kSquare + c, row, column);
        square[static_cast<size_t>(k * kSquare + c)] = node_.weights[from];
      }
    }
    return square;
  }

  const NodeDescription& node_;
  int32_t zero_point_;
  const Shape& shape_;
  const Window& window_;
  const Planes& planes_;
  Filters& filters_;
  int32_t first_ = 0;     // output channel of the quartet
  int32_t channels_ = 0;  // that it has
};

std::shared_ptr<const Filters> Pack(const Blueprint& blueprint, const Shape& shape,
                                    const Window& window, const Planes& planes) {
  const std::string layout = "squares";
  if (auto shared = SharedFilters(blueprint, layout)) return shared;
  auto filters = std::make_shared<Filters>();
  SquarePacker packer{blueprint, shape, window, planes, *filters};
  for (int32_t group = 0; group < shape.groups; ++group) {
    for (int32_t k = 0; k < shape.group_outputs; k += kSquare) packer.Pack(group, k);
  }
  filters->weights.shrink_to_fit();
  filters->places.shrink_to_fit();
  return ShareFilters(blueprint, layout, std::move(filters));
}

class SparseConvolution final : public Kernel {
 public:
  SparseConvolution(const Blueprint& blueprint, const Shape& shape, const Window& window,
                    const Rounding& rounding)
      : loops_(blueprint.sparse_loops),
        shape_(shape),
        window_(window),
        planes_(shape, window),
        rounding_(rounding),
        input_(blueprint.node.inputs[0]),
        output_(blueprint.node.output),
        in_(blueprint.input(0)),
        out_(blueprint.output()),
        scratch_(Scratch(blueprint)),
        filters_(Pack(blueprint, shape, window, planes_)) {}

  int32_t work_rows() const override { return out_.height; }
  size_t weights_bytes() const override { return filters_->bytes(); }

  // As many as have scratch for tiles of one vector.
  int32_t most_parts(Rows) const override {
    return static_cast<int32_t>(scratch_.slot_bytes / (planes_.Bytes(1) * window_.kernel[0]));
  }

  void Run(const Memory& memory, Rows rows, Part part) const override {
    const ConvShare share = ShareConv(shape_, out_.width, rows, part);
    const ptrdiff_t room = scratch_.slot_bytes / part.count;
    Job job{memory, share.area, memory.arena + scratch_.offset + part.index * room,
            MostVectors(room)};
    for (int32_t block = share.blocks.first; block < share.blocks.stop;) {
      const int32_t group = block / shape_.group_blocks();
      const int32_t stop = std::min(share.blocks.stop, (group + 1) * shape_.group_blocks());
      RunGroup(job, group, {block % shape_.group_blocks(), stop - group * shape_.group_blocks()});
      block = stop;
    }
  }

 private:
  struct Job {
    const Memory& memory;
    Area area;
    uint8_t* scratch;
    int32_t most_vectors;  // of a tile
  };

  // A tile's pixels of the rows under the window, each row in a slot of its own.
  struct Laid {
    std::array<int32_t, kMostWindowRows> place;        // input row of each slot
    std::array<const uint8_t*, kMostWindowRows> rows;  // planes by window row
  };

  const BufferDescription& Scratch(const Blueprint& blueprint) {
    const auto state = static_cast<size_t>(blueprint.node.state);
    const auto& buffers = blueprint.description.buffers;
    const bool small = window_.kernel[0] <= kMostWindowRows && planes_.widest_shift <= kMostShift &&
                       planes_.count() <= kMostPlanes;
    blueprint.Need(small, "a window of at most 16 rows to skip zero squares of its filters");
    blueprint.Need(!out_.is_float, "an output of bytes to skip zero squares of its filters");
    const ptrdiff_t least = planes_.Bytes(1) * window_.kernel[0];
    const bool fits = blueprint.node.state >= 0 && state < buffers.size() &&
                      buffers[state].slots == 1 && buffers[state].slot_bytes >= least;
    blueprint.Need(fits, "scratch of " + std::to_string(least) + " bytes or more");
    return buffers[state];
  }

  int32_t MostVectors(ptrdiff_t room) const {
    int32_t vectors = kMostVectors;
    while (vectors > 1 && planes_.Bytes(vectors) * window_.kernel[0] > room) --vectors;
    return vectors;
  }

  // Blocks of one group, counted in it.
  void RunGroup(const Job& job, int32_t group, Range blocks) const {
    const Range all = job.area.columns;
    const int32_t widest = job.most_vectors * kLanes;
    const int32_t tiles = (all.stop - all.first + widest - 1) / widest;
    for (int32_t i = 0; i < tiles; ++i) {
      const Range columns = Share(all.stop - all.first, {i, tiles});
      RunColumns(job, group, blocks, {all.first + columns.first, all.first + columns.stop});
    }
  }

  void RunColumns(const Job& job, int32_t group, Range blocks, Range columns) const {
    const MapView& output = job.memory.maps[output_];
    const int32_t pixels = columns.stop - columns.first;
    const int32_t vectors = (pixels + kLanes - 1) / kLanes;
    const ptrdiff_t plane_bytes = ptrdiff_t{planes_.Pixels(vectors)} * kSquare;
    const int32_t first = blocks.first * kBlockChannels;
    const int32_t stop = std::min(blocks.stop * kBlockChannels, shape_.group_outputs);
    const int32_t channel = group * shape_.group_outputs + first;
    const int32_t quartet = group * Quartered(shape_.group_outputs) + first / kSquare;
    Laid laid;
    laid.place.fill(std::numeric_limits<int32_t>::min());
    for (int32_t row = job.area.rows.first; row < job.area.rows.stop; ++row) {
      LayRows(job, group, row, columns, plane_bytes, laid);
      loops_.tile({
          .rows = laid.rows.data(),
          .plane_bytes = plane_bytes,
          .pixels = pixels,
          .quartets = filters_->quartets.data() + quartet,
          .channels = stop - first,
          .places = filters_->places.data(),
          .weights = filters_->weights.data(),
          .rounding = rounding_,
          .out = output.Row(row) + ptrdiff_t{columns.first} * output.pixel_bytes + channel,
          .out_step = output.pixel_bytes,
      });
    }
  }

  // Lays those rows under output row `row` that are not laid yet.
  void LayRows(const Job& job, int32_t group, int32_t row, Range columns, ptrdiff_t plane_bytes,
               Laid& laid) const {
    const int32_t count = window_.kernel[0];
    const int32_t top = row * window_.stride[0] - window_.pads[0];
    const auto is_under = [&](int32_t place) {
      const int32_t below = place - top;
      return place >= top && below % window_.dilation[0] == 0 &&
             below / window_.dilation[0] < count;
    };
    int32_t free = 0;
    for (int32_t r = 0; r < count; ++r) {
      const int32_t place = top + r * window_.dilation[0];
      const auto slots_stop = laid.place.begin() + count;
      auto slot = std::find(laid.place.begin(), slots_stop, place);
      const bool known = slot != slots_stop;
      if (!known) {
        while (is_under(laid.place[static_cast<size_t>(free)])) ++free;
        slot = laid.place.begin() + free++;
      }
      uint8_t* planes = job.scratch + (slot - laid.place.begin()) * planes_.count() * plane_bytes;
      if (!known) LayRow(job, group, place, columns, plane_bytes, planes);
      *slot = place;
      laid.rows[static_cast<size_t>(r)] = planes;
    }
  }

  void LayRow(const Job& job, int32_t group, int32_t place, Range columns, ptrdiff_t plane_bytes,
              uint8_t* planes) const {
    const MapView& input = job.memory.maps[input_];
    const bool inside = place >= 0 && place < in_.height;
    const uint8_t* from = inside ? input.Row(place) + group * shape_.group_inputs : nullptr;
    for (const int32_t phase : planes_.phases) {
      const int32_t column = columns.first * window_.stride[1] - window_.pads[1] + phase;
      loops_.lay({
          .row = from,
          .row_bytes = ptrdiff_t{in_.width - 1} * input.pixel_bytes + shape_.group_inputs,
          .first = ptrdiff_t{column} * input.pixel_bytes,
          .step = ptrdiff_t{window_.stride[1]} * input.pixel_bytes,
          .pixels = columns.stop - columns.first + planes_.widest_shift,
          .channels = shape_.group_inputs,
          .padding = static_cast<uint8_t>(in_.zero_point),
          .planes = planes,
          .plane_bytes = plane_bytes,
      });
      planes += planes_.quads * plane_bytes;
    }
  }

  const SparseLoops& loops_;
  Shape shape_;
  Window window_;
  Planes planes_;
  Rounding rounding_;
  int32_t input_;
  int32_t output_;
  MapDescription in_;
  MapDescription out_;
  BufferDescription scratch_;
  std::shared_ptr<const Filters> filters_;
};

}  // namespace

std::unique_ptr<const Kernel> MakeSparseConv(const Blueprint& blueprint, const Shape& shape,
                                             const Window& window, const Rounding& rounding) {
  return std::make_unique<SparseConvolution>(blueprint, shape, window, rounding);
}

}  // namespace thinmaps
