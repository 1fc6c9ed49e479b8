// SPDX-License-Identifier: Apache-2.0
#include "kernel.h"

#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace thinmaps {
namespace {

using Make = std::unique_ptr<const Kernel> (*)(const Blueprint&);

constexpr std::array<std::pair<std::string_view, Make>, 19> kOperators = {{
    {"picture", MakePicture},
    {"quantise", MakeQuantise},
    {"conv", MakeConv},
    {"winograd_conv", MakeWinogradConv},
    {"coded_conv", MakeCodedConv},
    {"conv_transpose", MakeConvTranspose},
    {"max_pool", MakeMaxPool},
    {"average_pool", MakeAveragePool},
    {"mean", MakeMean},
    {"add", MakeAdd},
    {"mul", MakeMul},
    {"lookup", MakeLookup},
    {"concat", MakeConcat},
    {"slice", MakeSlice},
    {"pad", MakePad},
    {"resize", MakeResize},
    {"depth_to_space", MakeDepthToSpace},
    {"encode", MakeEncode},
    {"decode", MakeDecode},
}};

}  // namespace

std::unique_ptr<const Kernel> MakeKernel(const Blueprint& blueprint) {
  for (const float value : blueprint.node.multiplier) {
    blueprint.Need(std::isfinite(value), "finite multipliers");
  }
  // Only Encode writes, and only Decode reads, maps whose rows are not raw.
  const std::string& op_id = blueprint.node.op;
  blueprint.Need(op_id == "encode" || blueprint.output().pixel_bytes > 0,
                 "raw rows in its output, got encoded ones");
  for (size_t i = 0; i < blueprint.node.inputs.size(); ++i) {
    blueprint.Need(op_id == "decode" || blueprint.input(i).pixel_bytes > 0,
                   "raw rows in map '" + blueprint.input(i).name + "', got encoded ones");
  }
  for (const auto& [op, make] : kOperators) {
    if (op == op_id) return make(blueprint);
  }
  throw std::invalid_argument("node '" + blueprint.node.name + "': no kernel for operator '" +
                              blueprint.node.op + "'");
}

}  // namespace thinmaps
