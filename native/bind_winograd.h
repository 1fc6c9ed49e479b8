// SPDX-License-Identifier: Apache-2.0
// Winograd convolutions for Python, see bindings.cc.
#pragma once

#include <nanobind/nanobind.h>

namespace thinmaps {

void BindWinograd(nanobind::module_& m);

}  // namespace thinmaps
