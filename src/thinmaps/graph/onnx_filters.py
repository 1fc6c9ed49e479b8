# SPDX-License-Identifier: Apache-2.0
"""Filters that an ONNX file makes of coefficients: calls of one function, taken out when reading.

    filters = coded_filters(coefficients, codes, unit)         domain `thinmaps.filters`

with constant int8 coefficients (k, c, codes), int8 codes (codes, 9) reduced to 3x3 and float32 unit
2^-shift (k, 1, 1); `graph/filter_codes.py` says what they make. The export draws the function's
body of standard operators, so that any runtime makes the same filters. Coming back, the call
becomes a constant of those filters, and beside it stands what they were made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import (
    MOST_CODES,
    MOST_SHIFT,
    TAPS,
    FilterCoefficients,
    known_codes,
)

DOMAIN = "thinmaps.filters"


def with_made_filters(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, FilterCoefficients]]:
    """The model with filters in place of calls that make them, and what they were made of, by name.

    Raises:
        BadModel: a call reads what is no constant, or constants that make no filters.
    """
    if not any(node.domain == DOMAIN for node in model.graph.node):
        return model, {}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in plain.graph.initializer}
    coded: dict[str, FilterCoefficients] = {}
    kept = []
    for node in plain.graph.node:
        if node.domain != DOMAIN:
            kept.append(node)
            continue
        if len(node.input) != 3 or any(name not in constants for name in node.input):
            raise BadModel(
                f"node {node.name!r} makes filters of codes; it needs three constants, "
                f"got {list(node.input)}"
            )
        arrays = [numpy_helper.to_array(constants[name]) for name in node.input]
        found = coded[node.output[0]] = _coded_filters(node.name, *arrays)
        plain.graph.initializer.append(numpy_helper.from_array(found.made(), node.output[0]))
    functions = [function for function in plain.functions if function.domain != DOMAIN]
    imports = [each for each in plain.opset_import if each.domain != DOMAIN]
    del plain.graph.node[:], plain.functions[:], plain.opset_import[:]
    plain.graph.node.extend(kept)
    plain.functions.extend(functions)
    plain.opset_import.extend(imports)
    return plain, coded


def _coded_filters(
    name: str, coefficients: NDArray[Any], table: NDArray[Any], unit: NDArray[Any]
) -> FilterCoefficients:
    """What a call is given, checked."""
    shapes = (coefficients.shape, table.shape, unit.shape)
    count = table.shape[0] if table.ndim == 2 else 0
    fits = (
        coefficients.ndim == 3
        and 1 <= count <= MOST_CODES
        and shapes == ((*coefficients.shape[:2], count), (count, TAPS), (len(coefficients), 1, 1))
        and coefficients.dtype == table.dtype == np.int8
    )
    known = known_codes(table) if fits else None
    shift = _shift(unit.ravel()) if fits else None
    if known is None or shift is None:
        raise BadModel(
            f"node {name!r} makes filters of codes; it needs int8 coefficients (k, c, codes), int8 "
            f"codes (codes, 9) and float32 units 2^-shift (k, 1, 1), shift 0 to {MOST_SHIFT}, "
            f"got {', '.join(map(str, shapes))}"
        )
    return FilterCoefficients(*known, coefficients, shift)


def _shift(unit: NDArray[Any]) -> NDArray[np.uint8] | None:
    """The shifts of which these are the units, if they are."""
    powers: Mapping[float, int] = {2.0**-shift: shift for shift in range(MOST_SHIFT + 1)}
    found = [powers.get(float(each)) for each in unit]
    return None if None in found else np.array(found, np.uint8)
