# SPDX-License-Identifier: Apache-2.0
"""Our side of a benchmark or profile: what it runs on, and one run of it. Needs no ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.errors import BadArgument
from thinmaps.file import Model
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine

Array = NDArray[Any]
Images = str | Path | Sequence[Array] | Array

MOST_PICTURES = 8


def network_inputs(model: Model, images: Images | None) -> list[Array]:
    """What `model` takes of at most eight pictures, or of one of noise.

    `images` is a folder, an .npy or .npz file, a sequence of pictures or one picture.

    Raises:
        BadArgument: the network takes several inputs.
        BadData: no picture can be used.
    """
    source = model.plan.source
    if len(source.inputs) != 1:
        raise BadArgument(f"bench feeds networks of one input, this has {', '.join(source.inputs)}")
    spec = source.maps[source.inputs[0]]
    if images is None:
        generator = np.random.default_rng(0)
        if spec.dtype == "uint8":
            return [generator.integers(0, 256, spec.shape, np.uint8)]
        return [generator.standard_normal(spec.shape, np.float32)]
    given = [images] if isinstance(images, np.ndarray) else images
    return [
        network_values(name, picture, spec.shape, model.preprocessing)
        for name, picture in open_pictures(given).at_most(MOST_PICTURES).read()
    ]


def our_run(plan: Plan, picture: Array, threads: int = 1) -> Callable[[], object]:
    """One inference of an engine for `plan`, into buffers made before."""
    engine = Engine(plan, threads=threads)
    outputs = [np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
    return lambda: engine.run_into([picture], outputs)
