// SPDX-License-Identifier: Apache-2.0
// With bind_engine.cc and bind_winograd.cc the only file that sees Python: arrays to spans, errors
// to exceptions, the GIL given back.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bind_engine.h"
#include "bind_winograd.h"
#include "codec.h"
#include "sha256.h"

namespace nb = nanobind;

namespace thinmaps {
namespace {

using Integers = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstMap = nb::ndarray<const uint8_t, nb::ndim<3>, nb::device::cpu>;
using MutableMap = nb::ndarray<uint8_t, nb::ndim<3>, nb::device::cpu>;

// Every kernel that this processor runs, as (codec id, instruction set).
std::vector<std::pair<std::string, std::string>> RunnableKernels() {
  std::vector<std::pair<std::string, std::string>> kernels;
  for (const CodecKernel& kernel : CodecKernels()) {
    if (Runs(kernel.isa)) kernels.emplace_back(kernel.id, NameOf(kernel.isa));
  }
  return kernels;
}

const CodecKernel& Codec(const std::string& id, const std::string& isa) {
  const CodecKernel* kernel = FindCodec(id, isa);
  if (kernel == nullptr) {
    throw nb::value_error(("no native codec '" + id + "' for " + isa).c_str());
  }
  return *kernel;
}

CodecSpec SpecOf(int32_t width, int32_t channels, int32_t zero_point, const Integers& integers,
                 const Bytes& tables) {
  return {width,
          channels,
          zero_point,
          {integers.data(), integers.size()},
          {tables.data(), tables.size()}};
}

// Row pointers of an array (rows, width, channels) whose channels are contiguous; its pixels may
// be further apart, as those of a slice of a concatenation are.
template <typename Array, typename Byte>
std::vector<Byte*> RowPointers(const Array& map) {
  if (map.stride(2) != 1 || map.stride(1) < static_cast<int64_t>(map.shape(2))) {
    throw nb::value_error("rows need contiguous channels and pixels that do not overlap");
  }
  std::vector<Byte*> rows;
  for (size_t row = 0; row < map.shape(0); ++row) {
    rows.push_back(map.data() + static_cast<ptrdiff_t>(row) * map.stride(0));
  }
  return rows;
}

// Returns (status, bytes written).
std::pair<int, size_t> EncodeUnitOf(const std::string& id, const std::string& isa,
                                    const ConstMap& rows, int32_t zero_point,
                                    const Integers& integers, const Bytes& tables,
                                    nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig> payload) {
  const auto pointers = RowPointers<ConstMap, const uint8_t>(rows);
  const CodecSpec spec = SpecOf(static_cast<int32_t>(rows.shape(1)),
                                static_cast<int32_t>(rows.shape(2)), zero_point, integers, tables);
  const ConstRows unit{pointers.data(), static_cast<int32_t>(pointers.size()), rows.stride(1)};
  size_t written = 0;
  const Status status =
      Codec(id, isa).encode(spec, unit, {payload.data(), payload.size()}, &written);
  return {static_cast<int>(status), written};
}

// `rows` receives columns column .. column + rows.shape(1) - 1 of a map that is `width` wide.
int DecodeUnitOf(const std::string& id, const std::string& isa, const Bytes& payload, int32_t width,
                 int32_t column, int32_t zero_point, const Integers& integers, const Bytes& tables,
                 const MutableMap& rows) {
  const auto pointers = RowPointers<MutableMap, uint8_t>(rows);
  const auto columns = static_cast<int32_t>(rows.shape(1));
  if (column < 0 || columns > width || column > width - columns) {
    throw nb::value_error("the column range leaves the map");
  }
  const CodecSpec spec =
      SpecOf(width, static_cast<int32_t>(rows.shape(2)), zero_point, integers, tables);
  const MutableRows unit{pointers.data(), static_cast<int32_t>(pointers.size()), rows.stride(1)};
  return static_cast<int>(
      Codec(id, isa).decode(spec, {payload.data(), payload.size()}, column, columns, unit));
}

// In hexadecimal digits; of `head` and the bytes after it.
std::string Sha256Of(nb::bytes head, const Bytes& rest) {
  const std::span first{static_cast<const uint8_t*>(head.data()), head.size()};
  const std::span second{rest.data(), rest.size()};
  std::array<uint8_t, 32> digest;
  {
    nb::gil_scoped_release released;
    digest = Sha256({first, second});
  }
  std::string digits;
  for (const uint8_t byte : digest) {
    digits += "0123456789abcdef"[byte >> 4];
    digits += "0123456789abcdef"[byte & 15];
  }
  return digits;
}

}  // namespace
}  // namespace thinmaps

NB_MODULE(_core, m) {
  using namespace nb::literals;
  m.doc() = "The native core of thinmaps.";
  m.def("codec_kernels", &thinmaps::RunnableKernels);
  m.def("encode_unit", &thinmaps::EncodeUnitOf, "codec_id"_a, "isa"_a, "rows"_a, "zero_point"_a,
        "integers"_a, "tables"_a, "payload"_a);
  m.def("decode_unit", &thinmaps::DecodeUnitOf, "codec_id"_a, "isa"_a, "payload"_a, "width"_a,
        "column"_a, "zero_point"_a, "integers"_a, "tables"_a, "rows"_a);
  m.def("sha256", &thinmaps::Sha256Of, "head"_a, "rest"_a);
  thinmaps::BindEngine(m);
  thinmaps::BindWinograd(m);
}
