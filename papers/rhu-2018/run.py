# SPDX-License-Identifier: Apache-2.0
"""Zero-value coding of maps: Rhu et al., 2018, beside ours.

Their setting: float32 activations after ReLU, one bit per element and the elements that are not
zero. Ours: the uint8 maps of a calibrated network, all that a machine stores layer by layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import NETWORKS, assets_from_arguments, compare

from thinmaps import profile
from thinmaps.measure.map_profile import MapProfile, ratios_of

FLOAT_BITS = 32


def ratio_of_floats(rows: list[MapProfile]) -> float:
    """Their ratio, on 32-bit elements with as many zeros."""
    elements = sum(row.raw_bytes for row in rows)
    nonzero = sum(row.raw_bytes * (1 - (row.zeros or 0)) for row in rows)
    return FLOAT_BITS * elements / (elements + FLOAT_BITS * nonzero)


def main() -> int:
    """Measure every network, compare with what is expected."""
    assets = assets_from_arguments(__doc__ or "")
    found = {}
    for name, (preprocessing, pictures) in NETWORKS.items():
        path = assets / "models" / f"{name}.onnx"
        seen = profile(path, assets / pictures, preprocessing=preprocessing, codec="zero_bitmap")
        rows = [row for row in seen.maps if row.stored]
        found[f"{name}: float32, all stored maps"] = ratio_of_floats(rows)
        found[f"{name}: uint8, all stored maps"] = ratios_of(rows)["zero_bitmap"]
    return compare(Path(__file__).parent, found)


if __name__ == "__main__":
    sys.exit(main())
