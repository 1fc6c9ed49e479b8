// SPDX-License-Identifier: Apache-2.0
// What the implementations of rans share: its tables, the order of a unit's elements, and one step
// in plain loops. rans.py, rans_models.py and rans_order.py specify all of it.
#pragma once

#include <algorithm>
#include <bit>

#include "codec.h"
#include "steps.h"

namespace thinmaps::rans {

constexpr size_t kLanes = 64;
constexpr size_t kMostStrips = 8;
constexpr size_t kLeastStates = 4;
constexpr uint32_t kLeastState = 1 << 16;
constexpr size_t kStateBytes = 4;
constexpr size_t kWordBytes = 2;
constexpr size_t kTokens = 16;
constexpr size_t kEntries = 16 * kTokens;  // of a table by model and bucket, or model and token
constexpr size_t kLevels = 8;

inline size_t StateCount(size_t elements, size_t state_elements) {
  return std::min(kLanes, std::bit_floor(std::max(kLeastStates, elements / state_elements)));
}

// The lane of a turn: its two pairs of upper bits are swapped.
inline size_t LaneOf(size_t turn) {
  return (turn & 3) | (turn >> 2 & 3) << 4 | (turn >> 4 & 3) << 2;
}

// Tables of Models.native_tables, and of steps.h behind them. Models are multiplied by 16.
struct Tables {
  const uint8_t* divider;
  const uint8_t* alias;
  const uint8_t* offset_low;
  const uint8_t* offset_high;
  const uint8_t* frequency_low;
  const uint8_t* frequency_high;
  const uint8_t* token_bits;
  const uint8_t* token_base;
  const uint8_t* threshold[kLevels - 1];  // by channel, from any of which 64 may be read
  const uint8_t* model[kLevels];
  size_t plain_bits;
  size_t models;
  size_t state_elements;
  Steps steps;
};

// Returns whether the tables have the size that the map's channels ask for.
inline bool ReadTables(const CodecSpec& spec, Tables* tables) {
  const size_t length = static_cast<size_t>(spec.channels) + kStepsLookahead;
  const size_t own = 6 * kEntries + 2 * kTokens + (2 * kLevels - 1) * length;
  if (spec.integers.size() != 4 || spec.tables.size() < own) return false;
  const int32_t bits = spec.integers[0];
  if (bits < 0 || bits > 8 || spec.integers[3] < 1) return false;
  tables->plain_bits = static_cast<size_t>(bits);
  tables->models = static_cast<size_t>(spec.integers[1]);
  tables->state_elements = static_cast<size_t>(spec.integers[3]);
  const uint8_t* next = spec.tables.data();
  const auto take = [&next](size_t bytes) {
    const uint8_t* table = next;
    next += bytes;
    return table;
  };
  tables->divider = take(kEntries);
  tables->alias = take(kEntries);
  tables->offset_low = take(kEntries);
  tables->offset_high = take(kEntries);
  tables->frequency_low = take(kEntries);
  tables->frequency_high = take(kEntries);
  tables->token_bits = take(kTokens);
  tables->token_base = take(kTokens);
  for (const uint8_t*& row : tables->threshold) row = take(length);
  for (const uint8_t*& row : tables->model) row = take(length);
  CodecSpec rest = spec;
  rest.tables = spec.tables.subspan(own);
  return ReadSteps(rest, &tables->steps);
}

// How a unit's columns are cut into strips, and its pixels into steps.
struct Order {
  size_t width;
  size_t channels;
  size_t strips;
  size_t strip_columns;

  explicit Order(const CodecSpec& spec)
      : width(static_cast<size_t>(spec.width)),
        channels(static_cast<size_t>(spec.channels)),
        strips(std::clamp<size_t>(kLanes / channels, 1, kMostStrips)),
        strip_columns((width + strips - 1) / strips) {}
};

// One step: a column of every strip that is so wide, and up to 64 channels from `channel` on.
struct Step {
  size_t row;
  size_t column;  // in its strip
  size_t channel;
  size_t channels;
  size_t pixels;

  size_t lanes() const { return channels * pixels; }
};

// Of narrow maps the last strips are narrower.
inline Step StepAt(const Order& order, size_t row, size_t column, size_t channel) {
  const size_t pixels =
      std::min(order.strips, (order.width - column - 1) / order.strip_columns + 1);
  return {row, column, channel, std::min(kLanes, order.channels - channel), pixels};
}

// Calls visit(step) for all steps of a row, in order.
template <typename Visit>
void ForEachStep(const Order& order, size_t row, Visit visit) {
  for (size_t column = 0; column < order.strip_columns; ++column) {
    for (size_t channel = 0; channel < order.channels; channel += kLanes) {
      visit(StepAt(order, row, column, channel));
    }
  }
}

// The same from the last step to the first.
template <typename Visit>
void ForEachStepBack(const Order& order, size_t row, Visit visit) {
  for (size_t column = order.strip_columns; column-- > 0;) {
    for (size_t chunk = (order.channels + kLanes - 1) / kLanes; chunk-- > 0;) {
      visit(StepAt(order, row, column, chunk * kLanes));
    }
  }
}

// The bytes of a step's pixel `strip`, and those of its neighbours; null where there is none.
template <typename Byte, typename Rows>
struct Pixel {
  Byte* own;
  const uint8_t* left;
  const uint8_t* upper;

  Pixel(const Rows& rows, const Order& order, const Step& step, size_t strip) {
    const auto column = static_cast<ptrdiff_t>(strip * order.strip_columns + step.column);
    const auto at = column * rows.pixel_bytes + static_cast<ptrdiff_t>(step.channel);
    own = rows.rows[step.row] + at;
    left = step.column > 0 ? own - rows.pixel_bytes : nullptr;
    upper = step.row > 0 ? rows.rows[step.row - 1] + at : nullptr;
    if (left == nullptr) left = upper;
    if (upper == nullptr) upper = left;
  }
};

// The models, multiplied by 16, that the bytes of `count` neighbours choose, the first of which
// belong to channel `channel`. Thresholds ascend, so the last one that is reached decides.
inline void ModelsOf(const Tables& tables, size_t channel, size_t count,
                     const uint8_t* __restrict left, const uint8_t* __restrict upper,
                     uint8_t* __restrict models) {
  uint8_t prediction[kLanes];
  for (size_t i = 0; i < count; ++i) {
    prediction[i] = static_cast<uint8_t>((left[i] + upper[i] + 1) >> 1);
  }
  std::copy_n(tables.model[0] + channel, count, models);
  for (size_t level = 1; level < kLevels; ++level) {
    const uint8_t* __restrict threshold = tables.threshold[level - 1] + channel;
    const uint8_t* __restrict model = tables.model[level] + channel;
    for (size_t i = 0; i < count; ++i) {
      const uint8_t reached = model[i];  // read in any case, so that nothing branches
      const uint8_t before = models[i];
      models[i] = prediction[i] >= threshold[i] ? reached : before;
    }
  }
}

inline uint32_t FrequencyOf(const Tables& tables, size_t entry) {
  return tables.frequency_low[entry] | uint32_t{tables.frequency_high[entry]} << 8;
}

// Words that are still to be taken, and states in the order of turns.
struct Decoder {
  uint32_t states[kLanes];
  size_t count;  // of states
  const uint8_t* next;
  const uint8_t* end;
  bool good = true;
};

// Takes a symbol by a model, multiplied by 16.
inline uint8_t TakeSymbol(const Tables& tables, size_t model, uint32_t* state, Decoder* decoder) {
  uint32_t x = *state;
  const uint32_t low = x & 255;
  const size_t entry = model | (x >> 8 & 15);
  const bool beyond = low >= tables.divider[entry];
  const size_t token = beyond ? tables.alias[entry] : entry & 15;
  const uint32_t offset =
      beyond ? tables.offset_low[entry] | uint32_t{tables.offset_high[entry]} << 8 : 0;
  // Offsets may be negative, in 16 bits; ranks are not.
  x = FrequencyOf(tables, model | token) * (x >> 12) + ((low + offset) & 0xFFFF);
  const uint32_t bits = tables.token_bits[token];
  const auto symbol = static_cast<uint8_t>(tables.token_base[token] + (x & ((1u << bits) - 1)));
  x >>= bits;
  if (x < kLeastState) {
    decoder->good &= decoder->next != decoder->end;
    if (!decoder->good) return symbol;
    x = x << 16 | static_cast<uint32_t>(decoder->next[0] | decoder->next[1] << 8);
    decoder->next += kWordBytes;
  }
  *state = x;
  return symbol;
}

// Decodes one step into the rows.
inline void DecodeStep(const Tables& tables, const Order& order, const Step& step,
                       const MutableRows& rows, Decoder* decoder) {
  uint8_t zeros[kLanes];
  std::fill_n(zeros, step.channels, tables.steps.zero);
  uint8_t models[kLanes];
  uint8_t symbols[kLanes];
  for (size_t strip = 0; strip < step.pixels; ++strip) {
    const Pixel<uint8_t, MutableRows> pixel(rows, order, step, strip);
    const bool alone = pixel.left == nullptr;
    ModelsOf(tables, step.channel, step.channels, alone ? zeros : pixel.left,
             alone ? zeros : pixel.upper, models + strip * step.channels);
  }
  const size_t lanes = step.lanes();
  for (size_t turn = 0; turn < kLanes; ++turn) {
    const size_t lane = LaneOf(turn);
    if (lane >= lanes) continue;
    uint32_t* state = &decoder->states[turn & (decoder->count - 1)];
    symbols[lane] = TakeSymbol(tables, models[lane], state, decoder);
  }
  if (!decoder->good) return;
  for (size_t strip = 0; strip < step.pixels; ++strip) {
    const Pixel<uint8_t, MutableRows> pixel(rows, order, step, strip);
    decoder->good &= ToBytes(tables.steps, symbols + strip * step.channels, step.channel,
                             step.channels, pixel.own);
  }
}

inline size_t Elements(const CodecSpec& spec, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) *
         static_cast<size_t>(spec.channels);
}

inline size_t PlainBytes(size_t elements, size_t bits) { return (elements * bits + 7) / 8; }

// Checks a payload's length and its `count` states, and sets a decoder in front of its first word.
inline bool Begin(std::span<const uint8_t> payload, size_t count, Decoder* decoder) {
  decoder->count = count;
  const size_t state_bytes = decoder->count * kStateBytes;
  if (payload.size() < state_bytes || (payload.size() - state_bytes) % kWordBytes != 0) {
    return false;
  }
  for (size_t i = 0; i < decoder->count; ++i) {
    const uint8_t* bytes = payload.data() + i * kStateBytes;
    decoder->states[i] = static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
                         static_cast<uint32_t>(bytes[2]) << 16 |
                         static_cast<uint32_t>(bytes[3]) << 24;
    if (decoder->states[i] < kLeastState) return false;
  }
  decoder->next = payload.data() + state_bytes;
  decoder->end = payload.data() + payload.size();
  return true;
}

// Whether a decoder is where the encoder began.
inline bool AtEnd(const Decoder& decoder) {
  return decoder.good && decoder.next == decoder.end &&
         std::all_of(decoder.states, decoder.states + decoder.count,
                     [](uint32_t state) { return state == kLeastState; });
}

// Of rans.cc: the plain form, and both directions of any unit.
Status DecodePlain(const CodecSpec& spec, const Tables& tables, std::span<const uint8_t> payload,
                   const MutableRows& rows);
Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written);
Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows);

}  // namespace thinmaps::rans
