# SPDX-License-Identifier: Apache-2.0
"""Everything that needs torch: networks learn to live with small maps. Needs `thinmaps[learn]`.

    capture      a user's module -> the float network that the one reader takes
    read_network a float ONNX file -> the same
    prepare      the student of a module: calibrated, on the grid, codecs in place
    surrogates   what stands for a codec while a network learns
    refit        tables that no gradient finds, such as those of `rans`, for what was learnt
    prune_dead_bits  what codes store and never changes, taken out
    export       a student -> standard ONNX, codecs in it, that `thinmaps compress` takes as it is
    distill      a student learns to answer as its teacher, without labels; fit: with labels

Nothing below this room imports it, and running a `.thin` file never loads torch. Names are resolved
when they are first used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from thinmaps.errors import MissingExtra
from thinmaps.first_use import resolve

if TYPE_CHECKING:
    from thinmaps.learn.augmentation import InTurn, RandomCrop, RandomFlip, RandomWindow
    from thinmaps.learn.captured import Captured, capture
    from thinmaps.learn.dead_bits import prune_dead_bits
    from thinmaps.learn.distillation import DistillationLosses, distill
    from thinmaps.learn.fitting import fit
    from thinmaps.learn.onnx_file import export
    from thinmaps.learn.onnx_network import OnnxTeacher, read_network
    from thinmaps.learn.options import TrainingOptions
    from thinmaps.learn.picture_loader import PictureLoader
    from thinmaps.learn.preparation import prepare
    from thinmaps.learn.refitting import refit
    from thinmaps.learn.student import Student
    from thinmaps.learn.training import TrainingResult

for _package, _module in {"torch": "torch", "lightning-fabric": "lightning_fabric"}.items():
    if find_spec(_module) is None:
        raise MissingExtra(
            f"thinmaps.learn needs {_package}, which is not installed: "
            "pip install 'thinmaps[learn]'"
        )

_HOMES = {
    "Captured": "thinmaps.learn.captured",
    "DistillationLosses": "thinmaps.learn.distillation",
    "InTurn": "thinmaps.learn.augmentation",
    "OnnxTeacher": "thinmaps.learn.onnx_network",
    "PictureLoader": "thinmaps.learn.picture_loader",
    "RandomCrop": "thinmaps.learn.augmentation",
    "RandomFlip": "thinmaps.learn.augmentation",
    "RandomWindow": "thinmaps.learn.augmentation",
    "Student": "thinmaps.learn.student",
    "TrainingOptions": "thinmaps.learn.options",
    "TrainingResult": "thinmaps.learn.training",
    "capture": "thinmaps.learn.captured",
    "distill": "thinmaps.learn.distillation",
    "export": "thinmaps.learn.onnx_file",
    "fit": "thinmaps.learn.fitting",
    "prepare": "thinmaps.learn.preparation",
    "prune_dead_bits": "thinmaps.learn.dead_bits",
    "read_network": "thinmaps.learn.onnx_network",
    "refit": "thinmaps.learn.refitting",
}

__all__ = [
    "Captured",
    "DistillationLosses",
    "InTurn",
    "OnnxTeacher",
    "PictureLoader",
    "RandomCrop",
    "RandomFlip",
    "RandomWindow",
    "Student",
    "TrainingOptions",
    "TrainingResult",
    "capture",
    "distill",
    "export",
    "fit",
    "prepare",
    "prune_dead_bits",
    "read_network",
    "refit",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use."""
    return resolve(__name__, _HOMES, name)
