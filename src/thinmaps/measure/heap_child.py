# SPDX-License-Identifier: Apache-2.0
"""What `live_heap` starts: one contestant, one picture, one number on standard output.

    python -m thinmaps.measure.heap_child ours MODEL.thin PICTURE.npy
    python -m thinmaps.measure.heap_child peer MODEL.onnx INPUT.npy

Only the side that is counted is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from thinmaps.measure.live_heap import peak_of


def ours(model_path: str, picture_path: str) -> int:
    """The arena, and what a run allocates on top of it."""
    from thinmaps.file import load
    from thinmaps.run.engine import Engine

    engine = Engine(load(model_path).plan)
    inputs = [np.load(picture_path)]
    outputs = [np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
    return engine.arena_bytes + peak_of(lambda: engine.run_into(inputs, outputs))


def peer(model_path: str, input_path: str) -> int:
    """What a run of ONNX Runtime allocates; outputs, like ours, lie in buffers made before."""
    from thinmaps.measure.peer import open_peer

    session = open_peer(model_path, keep_arena=False)
    name = session.get_inputs()[0].name
    values = np.load(input_path)
    outputs = session.run(None, {name: values})
    binding = session.io_binding()
    binding.bind_cpu_input(name, values)
    for entry, output in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_output(entry.name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
    return peak_of(lambda: session.run_with_iobinding(binding))


if __name__ == "__main__":
    side = {"ours": ours, "peer": peer}[sys.argv[1]]
    print(json.dumps(side(*sys.argv[2:])))
