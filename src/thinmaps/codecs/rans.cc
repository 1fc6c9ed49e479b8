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
    for (size_t c = 0; c < step.channels; ++c) {
      known->models[lane + c] = ModelOf(tables, step.channel + c, Mean(left[c], upper[c]));
    }
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

// The slot of a token's rank, by the model multiplied by 16.
uint32_t SlotOf(const Tables& tables, size_t model, size_t token, uint32_t rank) {
  const size_t own = model | token;
  if (rank < tables.divider[own]) return static_cast<uint32_t>(token << 8) + rank;
  for (size_t bucket = 0; bucket < kTokens; ++bucket) {
    const size_t entry = model | bucket;
    if (tables.alias[entry] != token) continue;
    const uint32_t offset = tables.offset_low[entry] | uint32_t{tables.offset_high[entry]} << 8;
    const uint32_t low = (rank - offset) & 0xFFFF;
    if (low >= tables.divider[entry] && low < 256) return static_cast<uint32_t>(bucket << 8) + low;
  }
  return 0;  // no rank of this token: the tables are those of no encoder
}

size_t TokenOf(const Tables& tables, uint8_t symbol) {
  size_t token = kTokens - 1;
  // Tokens that are not used stand at 0 behind the last one.
  while (token > 0 && (tables.token_base[token] > symbol || tables.token_base[token] == 0)) --token;
  return token;
}

void PutSymbol(const Tables& tables, size_t model, uint8_t symbol, uint32_t* state,
               Encoder* encoder) {
  const size_t token = TokenOf(tables, symbol);
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
  *state = (x / frequency << 12) + SlotOf(tables, model, token, x % frequency);
}

void EncodeStep(const Tables& tables, const Order& order, const Step& step, const ConstRows& rows,
                Encoder* encoder) {
  if (!encoder->good) return;
  Known known;
  Know(tables, order, step, rows, &known);
  const size_t lanes = step.lanes();
  for (size_t turn = kLanes; turn-- > 0;) {
    const size_t lane = LaneOf(turn);
    if (lane >= lanes) continue;
    uint32_t* state = &encoder->states[turn & (encoder->count - 1)];
    PutSymbol(tables, known.models[lane], known.symbols[lane], state, encoder);
  }
}

// Writes states and words to the payload's begin; the bytes that they take, or all where the plain
// form is no longer.
size_t EncodeCoded(const CodecSpec& spec, const Tables& tables, const ConstRows& rows,
                   std::span<uint8_t> payload) {
  const Order order(spec);
  Encoder encoder;
  encoder.count = StateCount(Elements(spec, rows.count));
  const size_t state_bytes = encoder.count * kStateBytes;
  if (payload.size() <= state_bytes) return payload.size();
  encoder.begin = payload.data() + state_bytes;
  encoder.next = payload.data() + payload.size();
  std::fill_n(encoder.states, encoder.count, kLeastState);
  for (int32_t row = rows.count; row-- > 0;) {
    ForEachStepBack(order, static_cast<size_t>(row),
                    [&](const Step& step) { EncodeStep(tables, order, step, rows, &encoder); });
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
  if (payload.size() > plain || !Begin(payload, elements, &decoder)) {
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
