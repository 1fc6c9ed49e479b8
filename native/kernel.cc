// SPDX-License-Identifier: Apache-2.0
#include "kernel.h"

#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace thinmaps {
namespace {

using Make = std::unique_ptr<const Kernel> (*)(const Blueprint&);

constexpr std::array<std::pair<std::string_view, Make>, 17> kOperators = {{
    {"picture", MakePicture},
    {"quantise", MakeQuantise},
    {"conv", MakeConv},
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
  for (const auto& [op, make] : kOperators) {
    if (op == blueprint.node.op) return make(blueprint);
  }
  throw std::invalid_argument("node '" + blueprint.node.name + "': no kernel for operator '" +
                              blueprint.node.op + "'");
}

}  // namespace thinmaps
