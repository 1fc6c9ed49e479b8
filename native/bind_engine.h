// SPDX-License-Identifier: Apache-2.0
// The engine half of the extension module; the codec half is bindings.cc.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "isa.h"

namespace thinmaps {

namespace nb = nanobind;

// The instruction set of a name, or the chosen one for none.
Isa IsaOf(const std::string& name);

// Adds Builder, Model, Weights and Engine to the module.
void BindEngine(nb::module_& m);

}  // namespace thinmaps
