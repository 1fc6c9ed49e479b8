# SPDX-License-Identifier: Apache-2.0
"""thinmaps runs trained convolutional networks in a fraction of the memory, with the same answers.

    model  = thinmaps.compress("model.onnx", calibrate="pictures/")    # needs thinmaps[compress]
    thinmaps.save(model, "model.thin")
    engine = thinmaps.Engine("model.thin")                             # or thinmaps.Engine(model)
    scores = engine(picture)                                           # NumPy in, NumPy out

Names are resolved when they are first used, so that running a file needs neither onnx nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thinmaps.first_use import resolve

if TYPE_CHECKING:
    from thinmaps.compression import compress
    from thinmaps.errors import ThinmapsError
    from thinmaps.file import Model, load, save
    from thinmaps.inference import Engine
    from thinmaps.profiling import profile
    from thinmaps.types import MapSpec, Preprocessing

_HOMES = {
    "Engine": "thinmaps.inference",
    "MapSpec": "thinmaps.types",
    "Model": "thinmaps.file",
    "Preprocessing": "thinmaps.types",
    "ThinmapsError": "thinmaps.errors",
    "compress": "thinmaps.compression",
    "load": "thinmaps.file",
    "profile": "thinmaps.profiling",
    "save": "thinmaps.file",
}

__all__ = [
    "Engine",
    "MapSpec",
    "Model",
    "Preprocessing",
    "ThinmapsError",
    "compress",
    "load",
    "profile",
    "save",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use."""
    return resolve(__name__, _HOMES, name)
