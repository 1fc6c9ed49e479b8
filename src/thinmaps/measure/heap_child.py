# SPDX-License-Identifier: Apache-2.0
"""What `live_heap` starts: one runtime, one picture, the fields of `Memory` on standard output.

    python -m thinmaps.measure.heap_child thinmaps MODEL.thin PICTURE.npy
    python -m thinmaps.measure.heap_child onnxruntime MODEL.onnx INPUT.npy keep|off
    python -m thinmaps.measure.heap_child openvino MODEL INPUT.npy

Only the side that is counted is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from thinmaps.measure.live_heap import (
    WARM_RUNS,
    Memory,
    largest_resident_bytes,
    peak_of,
    resident_bytes,
)


def thinmaps(model_path: str, picture_path: str, *_: str) -> Memory:
    """The arena, and what a run allocates on top of it."""
    from thinmaps.file import load
    from thinmaps.run.engine import Engine

    imported = resident_bytes()
    engine = Engine(load(model_path).plan)
    inputs = [np.load(picture_path)]
    outputs = [np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
    peak = engine.arena_bytes + peak_of(lambda: engine.run_into(inputs, outputs))
    return Memory(peak, largest_resident_bytes(), imported)


def onnxruntime(model_path: str, input_path: str, arena: str = "keep", *_: str) -> Memory:
    """What a warm run allocates; with an arena, what that reserves in the first."""
    from thinmaps.measure import onnxruntime_peer

    imported = resident_bytes()
    session = onnxruntime_peer.open_peer(model_path, keep_arena=arena == "keep")
    run = onnxruntime_peer.run_of(session, np.load(input_path))
    if arena == "keep":
        peak = peak_of(run, warm_runs=0, counted_runs=WARM_RUNS + 1)
    else:
        peak = peak_of(run)
    return Memory(peak, largest_resident_bytes(), imported)


def openvino(model_path: str, input_path: str, *_: str) -> Memory:
    """By how much resident memory grows over the first inference.

    OpenVINO lays out the memory of its maps while it compiles and touches it in the first
    inference, so what a warm run allocates says nothing about it.
    """
    from thinmaps.measure import openvino_peer

    openvino_peer.load()
    imported = resident_bytes()
    request = openvino_peer.open_request(Path(model_path))
    run = openvino_peer.run_of(request, np.load(input_path))
    before = resident_bytes()
    run()
    return Memory(resident_bytes() - before, largest_resident_bytes(), imported)


SIDES: dict[str, Callable[..., Memory]] = {
    "thinmaps": thinmaps,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}

if __name__ == "__main__":
    print(json.dumps(asdict(SIDES[sys.argv[1]](*sys.argv[2:]))))
