# SPDX-License-Identifier: Apache-2.0
"""`Engine`: the front door to a compressed network: pictures in, the model file's outputs out.

It puts three things around `run.engine.Engine`, which knows only maps: pictures of any size are
fitted as the file says, the last maps are dequantised, and the float operators behind them run.
Needs neither onnx nor torch. What only some callers need (Pillow, reports) is imported
when they do: a process that runs maps through `run_into` takes 9 MiB less for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadShape
from thinmaps.file import Model, load
from thinmaps.graph.float_network import Tail
from thinmaps.plan.plan import Plan
from thinmaps.run import engine

if TYPE_CHECKING:
    from thinmaps.measure.report import Report
    from thinmaps.run.step_times import NodeTime

Array = NDArray[Any]
Picture = Array | str | os.PathLike[str] | Mapping[str, Array]


class Engine:
    """Runs a compressed network from one arena; the native engine does the work.

    `engine(x)` takes one picture, uint8 `(h, w, 3)` RGB (or grey) of any size, a batch of them
    `(n, h, w, c)`, or a path. A network of arrays takes float32 in the network's size, one of
    several inputs a mapping of them by name. It returns the outputs of the model file: one array,
    or a dictionary where there are several.
    """

    def __init__(
        self,
        model: Model | Plan | str | os.PathLike[str],
        *,
        threads: int | None = 1,
        prefault: bool = False,
    ) -> None:
        """Load and pack; `prefault` touches the arena's pages here, not in the first run.

        `threads` are at most as many as the cores that this process may use; None for all of them.

        Raises:
            BadFile: a path that holds no .thin file.
        """
        if isinstance(model, str | os.PathLike):
            model = load(model)
        if isinstance(model, Plan):
            model = Model(model, Tail((), {}, ()))
        self.model = model
        self.native = engine.Engine(model.plan, threads=threads, prefault=prefault)

    @property
    def arena_bytes(self) -> int:
        """The arena: everything that the network's maps ever need, known before the first run."""
        return self.native.arena_bytes

    @property
    def weights_bytes(self) -> int:
        """Packed weights, shared by all clones."""
        return self.native.weights_bytes

    def __call__(self, picture: Picture) -> Array | dict[str, Array]:
        """Outputs for a picture, or stacked for a batch of them."""
        if isinstance(picture, np.ndarray) and picture.ndim == 4 and len(picture):
            stacked: Array | dict[str, Array] = _stacked([self(one) for one in picture])
            return stacked
        outputs = self.outputs(self.fit(picture))
        (only, *others) = outputs.values()
        return outputs if others else only

    def outputs(self, fitted: Array | Mapping[str, Array]) -> dict[str, Array]:
        """The model file's outputs, by name, for an array of exactly the network's input."""
        from thinmaps.measure.answers import final_outputs

        return final_outputs(self.model, self.native.maps(fitted))

    def fit(self, picture: Picture) -> Array | Mapping[str, Array]:
        """The network's input array for a picture; a mapping of arrays as it is.

        Raises:
            BadPicture: a file that cannot be opened.
            BadShape: something that is no picture.
        """
        if isinstance(picture, Mapping):
            return picture
        if not isinstance(picture, np.ndarray | str | os.PathLike):
            raise BadShape(f"a picture is a NumPy array or a path, got {type(picture).__name__}")
        from thinmaps.run.pictures import fit_picture, load_picture

        source = self.model.plan.source
        spec = source.maps[source.inputs[0]]
        if not isinstance(picture, np.ndarray):
            picture = load_picture(os.fspath(picture))
        if self.model.preprocessing is None or picture.dtype != np.uint8:
            return picture
        if picture.ndim not in (2, 3) or picture.size == 0:
            raise BadShape(f"a picture is (h, w, 3) or (h, w), got {picture.shape}")
        if picture.ndim == 2 or picture.shape[2] == 1:
            picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
        return fit_picture(picture, self.model.preprocessing, spec.shape[:2])

    def run_into(self, inputs: Any, outputs: Any) -> None:
        """Run on the caller's buffers, allocating nothing; see `run.engine.Engine.run_into`."""
        self.native.run_into(inputs, outputs)

    def rows(self, rows: Iterable[Array]) -> Iterator[Any]:
        """Stream: input rows in, output rows out as soon as they exist, neither ever whole."""
        return self.native.rows(rows)

    def profile(self, picture: Picture) -> tuple[NodeTime, ...]:
        """Where the time of one inference goes, node by node; see `run.engine.Engine.profile`."""
        return self.native.profile(self.fit(picture))

    def clone(self) -> Engine:
        """A second engine with its own arena and the same packed weights."""
        other = Engine.__new__(Engine)
        other.model = self.model
        other.native = self.native.clone()
        return other

    def report(self) -> Report:
        """Where every byte goes: predicted from the plan, counted by the engine."""
        from thinmaps.measure.report import Counted, report

        return report(self.model.plan, Counted(self.arena_bytes, self.weights_bytes))


def _stacked(outputs: list[Any]) -> Any:
    """One array or one dictionary of arrays along a new or the existing batch axis."""
    if isinstance(outputs[0], dict):
        return {name: _stacked([o[name] for o in outputs]) for name in outputs[0]}
    batched = outputs[0].ndim > 1 and outputs[0].shape[0] == 1
    return np.concatenate(outputs) if batched else np.stack(outputs)
