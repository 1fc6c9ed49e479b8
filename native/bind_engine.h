// SPDX-License-Identifier: Apache-2.0
// The engine half of the extension module; the codec half is bindings.cc.
#pragma once

#include <nanobind/nanobind.h>

namespace thinmaps {

namespace nb = nanobind;

// Adds Builder, Model, Weights and Engine to the module.
void BindEngine(nb::module_& m);

}  // namespace thinmaps
