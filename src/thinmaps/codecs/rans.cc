// SPDX-License-Identifier: Apache-2.0
// Native twin of rans.py, which specifies the payload; rans_avx512.cc decodes faster.
#include "rans.h"

namespace thinmaps {
namespace rans {
namespace {

// Bytes of a step as a decoder will know them, beside its symbols: in the order of lanes.
struct Known {
  uint8_t symbols[kLanes];
  uint8_t models[kLanes];
};

// What a decoder makes of `count` <= 64 bytes.
void Restore(const Steps& steps, const uint8_t* in, size_t channel, size_t count, uint8_t* out) {
  uint8_t symbols[kLanes];
  ToSymbols(steps, in, channel, count, symbols);
  (void)ToBytes(steps, symbols, channel, count, out);
}

void Know(const Tables& tables, const Order& order, const Step& step, const ConstRows& rows,
          Known* known) {
  uint8_t left[kLanes];
  uint8_t upper[kLanes];
  for (size_t strip = 0; strip < step.pixels; ++strip) {
    const Pixel<const uint8_t, ConstRows> pixel(rows, order, step, strip);
    const size_t lane = strip * step.channels;
    ToSymbols(tables.steps, pixel.own, step.channel, step.channels, known->symbols + lane);
    if (pixel.left == nullptr) {
      std::fill_n(left, step.channels, tables.steps.zero);
      std::fill_n(upper, step.channels, tables.steps.zero);
    } else {
      Restore(tables.steps, pixel.left, step.channel, step.channels, left);
      Restore(tables.steps, pixel.upper, step.channel, step.channels, upper);
    }
    ModelsOf(tables, step.channel, step.channels, left, upper, known->models + lane);
  }
}

constexpr size_t kRanks = 4096;  // of all tokens of a model
constexpr size_t kCellRanks = 16;
constexpr size_t kMostModels = kEntries / kTokens;
constexpr size_t kMostPieces = 2 * kTokens;

// The alias tables the other way round: where the slots of a model's ranks are, those of token 0
// first. A piece is a run of ranks whose slots are neighbours.
struct Slots {
  uint16_t first[kEntries];                         // rank of a token, by model and token
  uint16_t begin[kMostModels][kMostPieces + 1];     // of the pieces, and behind the last one
  uint16_t shift[kMostModels][kMostPieces];         // from ranks to slots, in 16 bits
  uint8_t piece[kMostModels][kRanks / kCellRanks];  // that the first rank of a cell belongs to
  uint8_t token[256];                               // by symbol

  uint32_t Of(size_t model, uint32_t rank) const {
    const size_t own = model / kTokens;
    const uint32_t at = rank % kRanks;  // tables of no encoder may have ranks beyond
    size_t i = piece[own][at / kCellRanks];
    while (at >= begin[own][i + 1]) ++i;
    return (at + shift[own][i]) % kRanks;
  }
};

// Adds `count` ranks from `rank` on, with slots from `slot` on, as piece `*pieces`.
void AddPiece(size_t model, size_t slot, size_t count, size_t* rank, size_t* pieces, Slots* slots) {
  if (count == 0) return;
  const size_t stop = *rank + count;
  const size_t cell = (*rank + kCellRanks - 1) / kCellRanks;
  const size_t stop_cell = (stop + kCellRanks - 1) / kCellRanks;
  std::fill_n(slots->piece[model] + cell, stop_cell - cell, static_cast<uint8_t>(*pieces));
  slots->begin[model][*pieces] = static_cast<uint16_t>(*rank);
  slots->shift[model][*pieces] = static_cast<uint16_t>(slot - *rank);
  *rank = stop;
  ++*pieces;
}

// A token's ranks are those in its own bucket, then those in the buckets that it helps to fill.
void FindSlots(const Tables& tables, size_t model, Slots* slots) {
  const size_t first = model * kTokens;
  size_t rank = 0;
  size_t pieces = 0;
  std::fill_n(slots->piece[model], kRanks / kCellRanks, uint8_t{0});
  for (size_t token = 0; token < kTokens; ++token) {
    const size_t own = first + token;
    const size_t stop = rank + FrequencyOf(tables, own);
    slots->first[own] = static_cast<uint16_t>(rank);
    const bool alone = tables.alias[own] == token;
    AddPiece(model, token << 8, alone ? 256 : tables.divider[own], &rank, &pieces, slots);
    for (size_t bucket = 0; bucket < kTokens && rank < stop; ++bucket) {
      const size_t divider = tables.divider[first + bucket];
      if (bucket == token || tables.alias[first + bucket] != token) continue;
      AddPiece(model, (bucket << 8) + divider, 256 - divider, &rank, &pieces, slots);
    }
  }
  slots->begin[model][pieces] = kRanks;
}

// Tokens that are not used stand at 0 behind the last one.
void FindTokens(const Tables& tables, Slots* slots) {
  size_t token = 0;
  for (size_t symbol = 0; symbol < 256; ++symbol) {
    while (token + 1 < kTokens && tables.token_base[token + 1] != 0 &&
           tables.token_base[token + 1] <= symbol) {
      ++token;
    }
    slots->token[symbol] = static_cast<uint8_t>(token);
  }
}

// Words are written from the payload's end towards its begin, where the states will be.
struct Encoder {
  uint32_t states[kLanes];
  size_t count;
  uint8_t* begin;  // where the first word may be at the earliest
  uint8_t* next;   // the last word that was written
  bool good = true;
};

void PutSymbol(const Tables& tables, const Slots& slots, size_t model, uint8_t symbol,
               uint32_t* state, Encoder* encoder) {
  const size_t token = slots.token[symbol];
  const uint32_t bits = tables.token_bits[token];
  const uint32_t frequency = std::max(FrequencyOf(tables, model | token), 1u);
  uint32_t x = *state;
  if (x >= uint64_t{frequency} << 20 >> bits) {
    encoder->good &= encoder->next - encoder->begin >= static_cast<ptrdiff_t>(kWordBytes);
    if (!encoder->good) return;
    encoder->next -= kWordBytes;
    encoder->next[0] = static_cast<uint8_t>(x);
    encoder->next[1] = static_cast<uint8_t>(x >> 8);
    x >>= 16;
  }
  x = (x << bits) + symbol - tables.token_base[token];
  *state = (x / frequency << 12) + slots.Of(model, slots.first[model | token] + x % frequency);
}

void EncodeStep(const Tables& tables, const Slots& slots, const Order& order, const Step& step,
                const ConstRows& rows, Encoder* encoder) {
  if (!encoder->good) return;
  Known known;
  Know(tables, order, step, rows, &known);
  const size_t lanes = step.lanes();
  for (size_t turn = kLanes; turn-- > 0;) {
    const size_t lane = LaneOf(turn);
    if (lane >= lanes) continue;
    uint32_t* state = &encoder->states[turn & (encoder->count - 1)];
    PutSymbol(tables, slots, known.models[lane], known.symbols[lane], state, encoder);
  }
}

// Writes states and words to the payload's begin; the bytes that they take, or all where the plain
// form is no longer.
size_t EncodeCoded(const CodecSpec& spec, const Tables& tables, const ConstRows& rows,
                   std::span<uint8_t> payload) {
  const Order order(spec);
  Encoder encoder;
  encoder.count = StateCount(Elements(spec, rows.count), tables.state_elements);
  const size_t state_bytes = encoder.count * kStateBytes;
  if (payload.size() <= state_bytes) return payload.size();
  encoder.begin = payload.data() + state_bytes;
  encoder.next = payload.data() + payload.size();
  std::fill_n(encoder.states, encoder.count, kLeastState);
  Slots slots;
  FindTokens(tables, &slots);
  for (size_t model = 0; model < tables.models; ++model) FindSlots(tables, model, &slots);
  for (int32_t row = rows.count; row-- > 0;) {
    ForEachStepBack(order, static_cast<size_t>(row), [&](const Step& step) {
      EncodeStep(tables, slots, order, step, rows, &encoder);
    });
  }
  if (!encoder.good) return payload.size();
  const uint8_t* end = payload.data() + payload.size();
  std::copy(static_cast<const uint8_t*>(encoder.next), end, encoder.begin);
  for (size_t i = 0; i < state_bytes; ++i) {
    payload[i] = static_cast<uint8_t>(encoder.states[i / kStateBytes] >> (i % kStateBytes * 8));
  }
  return state_bytes + static_cast<size_t>(end - encoder.next);
}

// Symbols of `bits` bits each to bytes; spare bits are 0.
void EncodePlain(const CodecSpec& spec, const Tables& tables, const ConstRows& rows,
                 uint8_t* payload) {
  uint32_t held = 0;
  size_t held_bits = 0;
  const auto channels = static_cast<size_t>(spec.channels);
  for (int32_t row = 0; row < rows.count; ++row) {
    for (int32_t column = 0; column < spec.width; ++column) {
      const uint8_t* pixel = rows.rows[row] + column * rows.pixel_bytes;
      for (size_t c = 0; c < channels; c += kLanes) {
        uint8_t symbols[kLanes];
        const size_t count = std::min(kLanes, channels - c);
        ToSymbols(tables.steps, pixel + c, c, count, symbols);
        for (size_t i = 0; i < count; ++i) {
          held |= uint32_t{symbols[i]} << held_bits;
          held_bits += tables.plain_bits;
          for (; held_bits >= 8; held_bits -= 8, held >>= 8) {
            *payload++ = static_cast<uint8_t>(held);
          }
        }
      }
    }
  }
  if (held_bits > 0) *payload = static_cast<uint8_t>(held);
}

}  // namespace

Status DecodePlain(const CodecSpec& spec, const Tables& tables, std::span<const uint8_t> payload,
                   const MutableRows& rows) {
  const uint8_t* next = payload.data();
  const uint8_t* end = next + payload.size();
  uint32_t held = 0;
  size_t held_bits = 0;
  const auto channels = static_cast<size_t>(spec.channels);
  bool good = true;
  for (int32_t row = 0; row < rows.count; ++row) {
    for (int32_t column = 0; column < spec.width; ++column) {
      uint8_t* pixel = rows.rows[row] + column * rows.pixel_bytes;
      for (size_t c = 0; c < channels; c += kLanes) {
        uint8_t symbols[kLanes];
        const size_t count = std::min(kLanes, channels - c);
        for (size_t i = 0; i < count; ++i) {
          if (held_bits < tables.plain_bits && next != end) {
            held |= uint32_t{*next++} << held_bits;
            held_bits += 8;
          }
          symbols[i] = static_cast<uint8_t>(held & ((1u << tables.plain_bits) - 1));
          held >>= tables.plain_bits;
          held_bits -= tables.plain_bits;
        }
        good &= ToBytes(tables.steps, symbols, c, count, pixel + c);
      }
    }
  }
  return good && held == 0 ? Status::kOk : Status::kCorruptPayload;
}

Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  Tables tables;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  const size_t plain = PlainBytes(Elements(spec, rows.count), tables.plain_bits);
  if (payload.size() < plain) return Status::kTooSmall;
  *written = EncodeCoded(spec, tables, rows, payload.first(plain));
  if (*written >= plain) EncodePlain(spec, tables, rows, payload.data());
  return Status::kOk;
}

Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  Tables tables;
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  if (!ReadTables(spec, &tables)) return Status::kBadArgument;
  const size_t elements = Elements(spec, rows.count);
  const size_t plain = PlainBytes(elements, tables.plain_bits);
  if (payload.size() == plain) return DecodePlain(spec, tables, payload, rows);
  Decoder decoder;
  if (payload.size() > plain ||
      !Begin(payload, StateCount(elements, tables.state_elements), &decoder)) {
    return Status::kCorruptPayload;
  }
  const Order order(spec);
  for (int32_t row = 0; row < rows.count && decoder.good; ++row) {
    ForEachStep(order, static_cast<size_t>(row), [&](const Step& step) {
      if (decoder.good) DecodeStep(tables, order, step, rows, &decoder);
    });
  }
  return AtEnd(decoder) ? Status::kOk : Status::kCorruptPayload;
}

}  // namespace rans

extern const CodecKernel kRans{"rans", Isa::kPortable, rans::Encode, rans::Decode};

}  // namespace thinmaps
