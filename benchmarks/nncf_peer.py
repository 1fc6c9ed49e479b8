# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's own int8: what its quantiser, NNCF, makes of the float network.

Optional: `pip install nncf` (3.4.0 works beside OpenVINO 2026.4.1 and NumPy 2.4).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from thinmaps.measure import openvino_peer
from thinmaps.measure.contenders import Entry

OPENVINO_NNCF = "OpenVINO int8 (NNCF)"


def nncf_entries(room: Path, pictures: Sequence[np.ndarray[Any, Any]]) -> list[Entry]:
    """What NNCF makes of `float.onnx` in `room`, calibrated on real inputs; [] without NNCF.

    Its scales are its own, so how far its answers correlate is printed and not required.
    """
    if not (openvino_peer.installed() and openvino_peer.installed("nncf")):
        return []
    import nncf

    openvino = openvino_peer.load()
    network = openvino.Core().read_model(room / "float.onnx")
    with redirect_stdout(sys.stderr):  # where its progress belongs
        quantised = nncf.quantize(network, nncf.Dataset(pictures), subset_size=len(pictures))
    openvino.save_model(quantised, room / "nncf.xml")
    return [Entry(OPENVINO_NNCF, "openvino", room / "nncf.xml", least_correlation=-1.0)]
