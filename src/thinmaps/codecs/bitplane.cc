// SPDX-License-Identifier: Apache-2.0
// Native twin of bitplane.py, which specifies the payload.
//
// Streams hold the first bit lowest, codes are printed with the first bit highest: tables of codes
// hold them reversed. Planes have their first difference lowest, which is their order in a stream.
// Level l is the plane of the differences' bit l; level 8 is their sign.
#include <algorithm>
#include <array>
#include <bit>

#include "bit_stream.h"
#include "codec.h"

namespace thinmaps {
namespace {

constexpr size_t kLongestRun = 16;
constexpr size_t kRunBits = 5;
constexpr size_t kBlock = 8;
constexpr size_t kSign = 8;  // the level of the sign
constexpr size_t kPlanes = 9;
constexpr size_t kElementBits = 8;
constexpr uint8_t kOnes = 0x7F;

constexpr uint8_t Reversed(size_t value, size_t bits) {
  size_t reversed = 0;
  for (size_t i = 0; i < bits; ++i) reversed |= (value >> i & 1) << (bits - 1 - i);
  return static_cast<uint8_t>(reversed);
}

struct Code {
  uint8_t word;
  uint8_t bits;
};

constexpr Code Printed(size_t value, size_t bits) {
  return {Reversed(value, bits), static_cast<uint8_t>(bits)};
}

constexpr Code kNoDelta = Printed(0b00001, 5);

// A plane whose delta is not all 0, by its code, which is neither.
constexpr Code CodeOf(uint8_t plane) {
  if (plane == kOnes) return Printed(0b00000, 5);
  const auto place = static_cast<size_t>(std::countr_zero(plane));
  if (plane >> place == 0b1) return Printed(0b00011 << 3 | place, 8);
  if (plane >> place == 0b11) return Printed(0b00010 << 3 | place, 8);
  return {static_cast<uint8_t>(plane << 1 | 1), 8};
}

constexpr Code CodeOfRun(size_t planes) {
  return planes == 1 ? Printed(0b001, 3) : Printed(0b01 << 3 | (planes - 2), 5);
}

constexpr auto kPlaneCodes = [] {
  std::array<Code, kOnes + 1> codes{};
  for (size_t plane = 1; plane <= kOnes; ++plane)
    codes[plane] = CodeOf(static_cast<uint8_t>(plane));
  return codes;
}();

constexpr auto kRunCodes = [] {
  std::array<Code, kPlanes + 1> codes{};
  for (size_t planes = 1; planes <= kPlanes; ++planes) codes[planes] = CodeOfRun(planes);
  return codes;
}();

// What the next 8 bits of stream 2 begin with.
struct Symbol {
  uint8_t bits = 8;
  uint8_t planes = kPlanes + 1;  // more than there can be: no code
  uint8_t code = 0;
  bool no_delta = false;
};

constexpr auto kSymbols = [] {
  std::array<Symbol, 256> symbols{};
  const auto enter = [&symbols](Code code, Symbol symbol) {
    symbol.bits = code.bits;
    for (size_t rest = 0; rest < 256u >> code.bits; ++rest)
      symbols[code.word | rest << code.bits] = symbol;
  };
  for (uint8_t plane = 1; plane <= kOnes; ++plane) enter(CodeOf(plane), {0, 1, plane, false});
  for (uint8_t planes = 1; planes <= kPlanes; ++planes) {
    enter(CodeOfRun(planes), {0, planes, 0, false});
  }
  enter(kNoDelta, {0, 1, 0, true});
  return symbols;
}();

size_t Elements(const CodecSpec& spec, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(spec.width) *
         static_cast<size_t>(spec.channels);
}

// As Bitplane.unit_bytes.
size_t UnitBytes(size_t elements) {
  constexpr size_t kLast[] = {0, 68, 80};
  size_t most = 0;
  for (size_t zeros = 0; zeros <= std::min(kBlock - 1, (elements + 1) / 2); ++zeros) {
    const size_t stored = elements - zeros;
    const size_t runs = elements + (kRunBits - 1) * zeros;
    most =
        std::max(most, runs + stored / kBlock * 80 + kLast[std::min<size_t>(stored % kBlock, 2)]);
  }
  return (most + 7) / 8;
}

// Calls visit(element) for every element, by channel, row, column; stops where it returns false.
template <typename Rows, typename Visit>
bool ForEachElement(const CodecSpec& spec, const Rows& rows, Visit visit) {
  for (int32_t channel = 0; channel < spec.channels; ++channel) {
    for (int32_t row = 0; row < rows.count; ++row) {
      auto* element = rows.rows[row] + channel;
      for (int32_t column = 0; column < spec.width; ++column, element += rows.pixel_bytes) {
        if (!visit(element)) return false;
      }
    }
  }
  return true;
}

// Bit j of byte i becomes bit i of byte j.
uint64_t Transposed(uint64_t x) {
  const auto swap = [&x](uint64_t mask, int distance) {
    const uint64_t differs = (x ^ x >> distance) & mask;
    x ^= differs ^ differs << distance;
  };
  swap(0x00AA00AA00AA00AA, 7);
  swap(0x0000CCCC0000CCCC, 14);
  swap(0x00000000F0F0F0F0, 28);
  return x;
}

struct Stream {
  BitWriter writer;
  size_t bits = 0;

  void Append(uint64_t word, size_t count) {
    writer.Append(word, count);
    bits += count;
  }
  void Append(Code code) { Append(code.word, code.bits); }
};

void PutRun(size_t zeros, Stream* out) { out->Append(Printed(zeros - 1, kRunBits)); }

void PutRuns(const CodecSpec& spec, const ConstRows& rows, Stream* out) {
  const auto zero = static_cast<uint8_t>(spec.zero_point);
  size_t zeros = 0;
  ForEachElement(spec, rows, [&](const uint8_t* element) {
    if (*element == zero) {
      if (++zeros < kLongestRun) return true;
      PutRun(zeros, out);
    } else {
      if (zeros > 0) PutRun(zeros, out);
      out->Append(1, 1);
    }
    zeros = 0;
    return true;
  });
  if (zeros > 0) PutRun(zeros, out);
}

void PutBlock(const uint8_t* elements, Stream* out) {
  uint8_t differences[kBlock] = {};
  uint8_t sign = 0;
  for (size_t i = 0; i + 1 < kBlock; ++i) {
    differences[i] = static_cast<uint8_t>(elements[i + 1] - elements[i]);
    sign |= static_cast<uint8_t>((elements[i + 1] < elements[i]) << i);
  }
  // Byte l is level l.
  const uint64_t delta = Transposed(Load64(differences));
  const uint64_t code = delta ^ delta << 8;

  out->Append(Printed(elements[0], kElementBits));
  size_t zeros = 0;
  const auto put = [&zeros, out](uint8_t plane, uint8_t plane_delta) {
    if (plane == 0) {
      ++zeros;
      return;
    }
    if (zeros > 0) out->Append(kRunCodes[zeros]);
    zeros = 0;
    out->Append(plane_delta == 0 && plane != kOnes ? kNoDelta : kPlaneCodes[plane]);
  };
  put(static_cast<uint8_t>(sign ^ delta >> 56), sign);
  for (size_t level = kSign; level-- > 0;) {
    put(static_cast<uint8_t>(code >> 8 * level), static_cast<uint8_t>(delta >> 8 * level));
  }
  if (zeros > 0) out->Append(kRunCodes[zeros]);
}

void PutBlocks(const CodecSpec& spec, const ConstRows& rows, Stream* out) {
  uint8_t block[kBlock];
  size_t count = 0;
  ForEachElement(spec, rows, [&](const uint8_t* element) {
    const auto stored = static_cast<uint8_t>(*element - spec.zero_point);
    block[count] = stored;
    count += stored != 0;
    if (count == kBlock) PutBlock(block, out);
    count %= kBlock;
    return true;
  });
  if (count == 0) return;
  std::fill(block + count, block + kBlock, uint8_t{0});
  PutBlock(block, out);
}

Status Encode(const CodecSpec& spec, const ConstRows& rows, std::span<uint8_t> payload,
              size_t* written) {
  if (payload.size() < UnitBytes(Elements(spec, rows.count))) return Status::kTooSmall;
  Stream out{BitWriter(payload)};
  PutRuns(spec, rows, &out);
  PutBlocks(spec, rows, &out);
  out.writer.Flush();
  *written = (out.bits + 7) / 8;
  return Status::kOk;
}

// Behind the payload's end all bits read as 0, which the position says in the end.
struct Reader {
  std::span<const uint8_t> payload;
  size_t position = 0;

  uint64_t Ahead() const { return BitsAt(payload, position); }
};

// Elements that are zero, or that are not, one after the other.
struct Run {
  bool stored;
  size_t elements;
};

Run TakeRun(Reader* in) {
  const uint64_t ahead = in->Ahead();
  if ((ahead & 1) != 0) {
    const auto ones = static_cast<size_t>(std::countr_one(ahead));
    in->position += ones;
    return {true, ones};
  }
  in->position += kRunBits;
  return {false, size_t{1} + Reversed(ahead >> 1 & 15, 4)};
}

// Whether stream 1 is one that an encoder writes; counts what it announces and leaves `in` behind
// it, where the ones that follow may already be those of stream 2.
bool CountStored(size_t elements, Reader* in, size_t* stored) {
  size_t left = elements;
  bool may_continue = true;
  while (left > 0) {
    Run run = TakeRun(in);
    if (run.stored && run.elements > left) {
      in->position -= run.elements - left;
      run.elements = left;
    }
    if (run.elements > left || (!run.stored && !may_continue)) return false;
    may_continue = run.stored || run.elements == kLongestRun;
    if (run.stored) *stored += run.elements;
    left -= run.elements;
  }
  return true;
}

// Codes by level, and the levels whose delta is all 0.
struct Planes {
  uint64_t low = 0;
  uint8_t sign = 0;
  uint32_t no_delta = 0;

  void Set(size_t level, const Symbol& symbol) {
    if (level == kSign) sign = symbol.code;
    if (level < kSign) low |= uint64_t{symbol.code} << 8 * level;
    no_delta |= uint32_t{symbol.no_delta} << level;
  }
};

bool TakePlanes(Reader* in, Planes* planes) {
  bool was_zero = false;
  for (size_t left = kPlanes; left > 0;) {
    const Symbol& symbol = kSymbols[in->Ahead() & 255];
    const bool is_zero = symbol.code == 0 && !symbol.no_delta;
    if (symbol.planes > left || (is_zero && was_zero)) return false;
    planes->Set(left - 1, symbol);
    was_zero = is_zero;
    in->position += symbol.bits;
    left -= symbol.planes;
  }
  return true;
}

// Codes to deltas, from the lowest level up; false where another code would have come first.
bool ToDeltas(const Planes& planes, uint64_t* low, uint8_t* sign) {
  uint8_t delta = 0;
  bool good = true;
  *low = 0;
  for (size_t level = 0; level <= kSign; ++level) {
    uint8_t code = level == kSign ? planes.sign : static_cast<uint8_t>(planes.low >> 8 * level);
    const bool no_delta = (planes.no_delta >> level & 1) != 0;
    if (no_delta) code = delta;
    delta ^= code;
    good &= (code != 0 && code != kOnes && delta == 0) == no_delta;
    if (level < kSign) *low |= uint64_t{delta} << 8 * level;
  }
  *sign = delta;
  return good;
}

// The next block, of which `count` elements are not zero and the others are.
bool TakeBlock(Reader* in, size_t count, uint8_t* elements) {
  elements[0] = Reversed(in->Ahead() & 255, kElementBits);
  in->position += kElementBits;
  Planes planes;
  uint64_t low;
  uint8_t sign;
  if (!TakePlanes(in, &planes) || !ToDeltas(planes, &low, &sign)) return false;
  const uint64_t differences = Transposed(low);
  int32_t element = elements[0];
  bool good = element != 0;
  for (size_t i = 1; i < kBlock; ++i) {
    element += static_cast<int32_t>(differences >> 8 * (i - 1) & 255);
    element -= (sign >> (i - 1) & 1) * 256;
    good &= i < count ? element >= 1 && element <= 255 : element == 0;
    elements[i] = static_cast<uint8_t>(element);
  }
  return good;
}

Status Decode(const CodecSpec& spec, std::span<const uint8_t> payload, int32_t column,
              int32_t columns, const MutableRows& rows) {
  if (column != 0 || columns != spec.width) return Status::kBadArgument;
  Reader runs{payload};
  Reader blocks{payload};
  size_t stored = 0;
  if (!CountStored(Elements(spec, rows.count), &blocks, &stored)) return Status::kCorruptPayload;

  const auto zero = static_cast<uint8_t>(spec.zero_point);
  uint8_t block[kBlock];
  size_t place = kBlock;
  Run run{false, 0};
  const bool good = ForEachElement(spec, rows, [&](uint8_t* element) {
    if (run.elements == 0) run = TakeRun(&runs);
    --run.elements;
    *element = zero;
    if (!run.stored) return true;
    if (place == kBlock) {
      if (!TakeBlock(&blocks, std::min(stored, kBlock), block)) return false;
      stored -= std::min(stored, kBlock);
      place = 0;
    }
    *element = static_cast<uint8_t>(block[place++] + zero);
    return true;
  });
  if (!good || (blocks.position + 7) / 8 != payload.size() || blocks.Ahead() != 0) {
    return Status::kCorruptPayload;
  }
  return Status::kOk;
}

}  // namespace

extern const CodecKernel kBitplane{"bitplane", Isa::kPortable, Encode, Decode};

}  // namespace thinmaps
