# SPDX-License-Identifier: Apache-2.0
"""`Engine`: runs a plan natively, from one arena, with the results of `interpret`, bit for bit.

Everything is checked and packed when an engine is made; after that it allocates nothing but what
it returns (`run_into` returns nothing). The GIL is free while it runs. One engine runs one
inference at a time: other threads wait. `clone()` gives a second engine with an arena of its own
on the same packed weights.

Time: on one core of a 2023 server, SqueezeNet 1.1 at 224 x 224 takes 22 (SSE4.1), 12 (AVX2), 3.6
(AVX-512 VNNI) or 2.4 ms (AMX).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinmaps import _core, quant
from thinmaps.errors import BadArgument, BadShape, PlanImpossible
from thinmaps.plan.plan import Plan
from thinmaps.run.cores import checked_threads
from thinmaps.run.describe import build
from thinmaps.run.row_flow import RowFlow
from thinmaps.run.step_times import NodeTime, node_times
from thinmaps.types import MapSpec

Array: TypeAlias = NDArray[Any]
Float32Array: TypeAlias = NDArray[np.float32]
AnyArray = TypeVar("AnyArray", bound=Array)
PROFILED_RUNS = 9
Input: TypeAlias = np.ndarray[Any, Any] | Mapping[str, np.ndarray[Any, Any]]


class Engine:
    """A plan, ready to run.

    `threads` share the steps that take long enough, None for one per core that the process may use,
    which is also the most; results do not depend on their number. `weights` are those of
    another engine of the same network, also of another plan of it. `isa` selects an instruction
    set that runs here ("portable", "avx2", "avx512", "amx", on ARM "portable", "neon"); results do
    not depend on it either. With `prefault` the pages of the arena are touched here, not in the
    first run. Convolutions with scratch in the plan skip the zero blocks of their filters where
    that is predicted to be faster here; `skip_zero_blocks` makes all of them do so, or none.
    `winograd` says the same of Winograd's algorithm, for those with scratch for it. A forked
    process may go on with an engine that was not running: with one thread, those of the parent are
    not its own.

    Raises:
        PlanImpossible: the plan does not fit together, or holds what the native core cannot run.
        BadArgument: `threads` is not in 1..256.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int | None = 1,
        weights: _core.Weights | None = None,
        isa: str | None = None,
        prefault: bool = False,
        skip_zero_blocks: bool | None = None,
        winograd: bool | None = None,
    ) -> None:
        self.plan = plan
        self.threads = checked_threads(threads)
        self.prefault = prefault
        self.weights = _core.Weights() if weights is None else weights
        try:
            self._model = build(plan, self.weights, isa or "", skip_zero_blocks, winograd)
            self._start()
        except (ValueError, TypeError, OverflowError) as error:
            raise PlanImpossible(f"the engine cannot run this plan: {error}") from error
        except MemoryError as error:
            raise PlanImpossible(
                f"no memory for an arena of {plan.arena_bytes} bytes and the packed weights"
            ) from error

    def _start(self) -> None:
        """What every engine has for itself: an arena, threads, a lock."""
        network = self.plan.network
        self.input_specs = {name: network.maps[name] for name in network.inputs}
        self.output_specs = {name: network.maps[name] for name in network.outputs}
        index = {name: i for i, name in enumerate(network.maps)}
        externals = [index[name] for name in (*network.inputs, *network.outputs)]
        self._core = _core.Engine(
            self._model, self.threads, externals, len(network.inputs), self.prefault
        )
        self._lock = threading.Lock()
        self._streams = False

    def clone(self) -> Engine:
        """A second engine for the same plan: its own arena and threads, the same weights."""
        twin = object.__new__(Engine)
        twin.plan, twin.threads, twin.prefault = self.plan, self.threads, self.prefault
        twin.weights, twin._model = self.weights, self._model
        twin._start()
        return twin

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena: every ring, map, running sum and codec slot of the plan."""
        return self.plan.arena_bytes

    @property
    def weights_bytes(self) -> int:
        """Bytes of packed filters, biases, multipliers and tables; clones share them."""
        return self._model.weights_bytes

    @property
    def input_bytes(self) -> int:
        """Bytes of the inputs, which live with the caller."""
        return sum(spec.raw_bytes for spec in self.input_specs.values())

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs, which live with the caller."""
        return sum(spec.raw_bytes for spec in self.output_specs.values())

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The arena as the last run has left it, read-only: for tests and reports."""
        return self._core.arena

    @property
    def encoded_bytes(self) -> dict[str, int]:
        """Bytes that the last inference stored of each encoded map, lengths of payloads counted."""
        return self._by_encoded_map(self._core.encoded_bytes)

    @property
    def overflow_shares(self) -> dict[str, float]:
        """The share of units that passed their cap in the last inference, by map that has one."""
        maps, codecs = self.plan.source.maps, self.plan.codecs
        return {
            name: units / codecs[name].unit_count(maps[name])
            for name, units in self._by_encoded_map(self._core.overflows).items()
            if codecs[name].has_cap
        }

    def _by_encoded_map(self, counted: Sequence[int]) -> dict[str, int]:
        names = {f"{name}.coded": name for name in self.plan.codecs}
        by_map = zip(self.plan.network.maps, counted, strict=True)
        return {names[name]: count for name, count in by_map if name in names}

    def __call__(self, x: Input) -> Array | dict[str, Array]:
        """The raw outputs of `maps(x)`: the array itself where the network has one output."""
        return _single(self.maps(x))

    def maps(self, x: Input) -> dict[str, Array]:
        """Outputs by name, uint8 maps or float32 heads, `(h, w, c)`, or `(n, h, w, c)` for a batch.

        `x` is one input `(h, w, c)`, or a batch `(n, h, w, c)` of them; a mapping by input name
        where the network has several inputs.

        Raises:
            BadShape: `x` is of another dtype or shape, or not C-contiguous.
        """
        inputs = self._inputs(x)
        batch = self._batch(inputs)
        count = 1 if batch is None else batch
        made = {
            name: np.empty((count, *spec.shape), spec.dtype)
            for name, spec in self.output_specs.items()
        }
        for i in range(count):
            arrays = [array if batch is None else array[i] for array in inputs]
            self._run([*arrays, *(array[i] for array in made.values())])
        return made if batch is not None else {name: array[0] for name, array in made.items()}

    def dequantised(self, x: Input) -> Float32Array | dict[str, Float32Array]:
        """As calling the engine, in real units: `(byte - zero_point) * scale` in float32."""
        values: dict[str, Float32Array] = {
            name: made
            if made.dtype == np.float32
            else quant.dequantise(
                made, self.output_specs[name].scale, self.output_specs[name].zero_point
            )
            for name, made in self.maps(x).items()
        }
        return _single(values)

    def run_into(
        self, inputs: Sequence[np.ndarray[Any, Any]], outputs: Sequence[np.ndarray[Any, Any]]
    ) -> None:
        """One inference between the caller's arrays, in the order of the network's maps.

        Allocates nothing.

        Raises:
            BadShape: an array is missing, of another dtype or shape, not C-contiguous, or an
                output that cannot be written.
        """
        specs = (self.input_specs, self.output_specs)
        for kind, names, arrays in zip(("input", "output"), specs, (inputs, outputs), strict=True):
            if len(arrays) != len(names):
                raise BadShape(
                    f"the engine needs {len(names)} {kind} arrays ({', '.join(names)}), "
                    f"got {len(arrays)}"
                )
            for (name, spec), array in zip(names.items(), arrays, strict=True):
                _check_array(array, spec, f"{kind} {name!r}")
                if kind == "output" and not array.flags.writeable:
                    raise BadShape(f"output {name!r} needs an array to write to, got a read-only")
        self._run([*inputs, *outputs])

    def profile(self, x: Input, runs: int = PROFILED_RUNS) -> tuple[NodeTime, ...]:
        """Where the time of one inference of `maps(x)` goes, node by node, in the network's order.

        Every step is timed for itself, `runs` times after a warm run, and counts with its median;
        reading the clock is taken off. Times are those on the clock; with several threads a step
        lasts until all have done their part. Nodes without steps do no work and are left out.

        Raises:
            BadArgument: `runs` is below 1.
            BadShape: `x` is a batch, or no input as `maps` takes it.
        """
        if type(runs) is not int or runs < 1:
            raise BadArgument(f"a profile needs 1 or more runs, got {runs!r}")
        inputs = self._inputs(x)
        for array, (name, spec) in zip(inputs, self.input_specs.items(), strict=True):
            _check_array(array, spec, f"input {name!r}")
        outputs = [np.empty(spec.shape, spec.dtype) for spec in self.output_specs.values()]
        self._run([*inputs, *outputs])
        with self._lock:
            self._refuse_while_streaming()
            taken = [self._core.profile([*inputs, *outputs]) for _ in range(runs)]
        return node_times(self.plan, taken)

    def rows(
        self, source: Iterable[np.ndarray[Any, Any]]
    ) -> Iterator[Array] | Iterator[tuple[str, Array]]:
        """Output rows as input rows arrive: neither picture nor output is ever whole in memory.

        `source` gives rows `(w, c)` from top to bottom. Yields rows `(w, c)`, or `(name, row)`
        where the network has several outputs. How far input runs ahead of output is the plan's
        matter: a `layer` plan reads everything first.

        Raises:
            BadArgument: the network has several inputs, or the engine is streaming already.
            BadShape: a row does not fit, or there are more or fewer rows than the input has.
        """
        if len(self.input_specs) != 1:
            raise BadArgument(
                f"rows() streams networks of one input, this one has {', '.join(self.input_specs)}"
            )
        pairs = self._stream(iter(source))
        return pairs if len(self.output_specs) > 1 else (row for _, row in pairs)

    def _stream(self, source: Iterator[np.ndarray[Any, Any]]) -> Iterator[tuple[str, Array]]:
        """`(output name, row)` in the order in which the plan makes them."""
        (name, spec), *_ = self.input_specs.items()
        flow = RowFlow.of(self.plan)
        rings = {
            ring: np.zeros((slots, *self.plan.network.maps[ring].shape[1:]), array_dtype)
            for ring, slots in flow.slots.items()
            for array_dtype in [self.plan.network.maps[ring].dtype]
        }
        buffers = [rings[ring] for ring in (*self.input_specs, *self.output_specs)]
        taken = 0
        self._begin_stream()
        try:
            for stage in flow.stages:
                for row in range(taken, stage.input_rows):
                    rings[name][row % flow.slots[name]] = _next_row(source, spec, row)
                taken = max(taken, stage.input_rows)
                with self._lock:
                    self._core.run(buffers, stage.first, stage.stop)
                for output, first, stop in stage.made:
                    for row in range(first, stop):
                        yield output, rings[output][row % flow.slots[output]].copy()
            _check_all_rows_came(source, spec, taken)
        finally:
            self._streams = False

    def _begin_stream(self) -> None:
        with self._lock:
            self._refuse_while_streaming()
            self._streams = True

    def _refuse_while_streaming(self) -> None:
        if self._streams:
            raise BadArgument(
                "this engine is in the middle of rows(), whose rows its arena holds; "
                "finish or close that iterator, or use clone()"
            )

    def _run(self, buffers: list[np.ndarray[Any, Any]]) -> None:
        with self._lock:
            self._refuse_while_streaming()
            self._core.run(buffers, 0, len(self.plan.steps))

    def _inputs(self, x: Input) -> list[np.ndarray[Any, Any]]:
        """The input arrays in the network's order."""
        if not isinstance(x, Mapping):
            if len(self.input_specs) != 1:
                raise BadShape(
                    f"the engine needs a mapping of inputs {', '.join(self.input_specs)}, "
                    f"got {type(x).__name__}"
                )
            x = {next(iter(self.input_specs)): x}
        if set(x) != set(self.input_specs):
            raise BadShape(
                f"the engine needs inputs {', '.join(self.input_specs)}, got {', '.join(x)}"
            )
        return [x[name] for name in self.input_specs]

    def _batch(self, arrays: list[np.ndarray[Any, Any]]) -> int | None:
        """How many inputs each array holds; None for single ones. Checks all of them."""
        batched = all(isinstance(array, np.ndarray) and array.ndim == 4 for array in arrays)
        for array, (name, spec) in zip(arrays, self.input_specs.items(), strict=True):
            label = f"input {name!r}"
            if not batched:
                _check_array(array, spec, label)
            elif len(array) != len(arrays[0]):
                raise BadShape(f"{label} holds {len(array)} pictures, others {len(arrays[0])}")
            else:
                _check_pixels(array, spec, label, array.shape[1:])
        return len(arrays[0]) if batched else None


def _single(values: dict[str, AnyArray]) -> AnyArray | dict[str, AnyArray]:
    return next(iter(values.values())) if len(values) == 1 else values


def _check_array(array: np.ndarray[Any, Any], spec: MapSpec, label: str) -> None:
    if not isinstance(array, np.ndarray):
        raise BadShape(f"{label} needs a NumPy array, got {type(array).__name__}")
    _check_pixels(array, spec, label, array.shape)


def _check_pixels(
    array: np.ndarray[Any, Any], spec: MapSpec, label: str, shape: tuple[int, ...]
) -> None:
    """Refuse arrays of another dtype or shape, or whose elements do not lie in C order."""
    if array.dtype != np.dtype(spec.dtype) or shape != spec.shape:
        raise BadShape(
            f"{label} needs {spec.dtype} (h, w, c) = {spec.shape} or a batch of them, "
            f"got {array.dtype} {array.shape}"
        )
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise BadShape(
            f"{label} needs a C-contiguous array, got strides {array.strides} for shape "
            f"{array.shape}; np.ascontiguousarray makes one"
        )


def _next_row(
    source: Iterator[np.ndarray[Any, Any]], spec: MapSpec, row: int
) -> np.ndarray[Any, Any]:
    values = next(source, None)
    if values is None:
        raise BadShape(f"rows() needs {spec.height} rows, got only {row}")
    values = np.asarray(values)
    if values.dtype != np.dtype(spec.dtype) or values.shape != (spec.width, spec.channels):
        raise BadShape(
            f"rows() needs {spec.dtype} rows (w, c) = {(spec.width, spec.channels)}, "
            f"got {values.dtype} {values.shape} as row {row}"
        )
    return values


def _check_all_rows_came(source: Iterator[np.ndarray[Any, Any]], spec: MapSpec, taken: int) -> None:
    """The plan may leave the last rows unread (a strided network); they must have come too."""
    for row in range(taken, spec.height):
        _next_row(source, spec, row)
    if next(source, None) is not None:
        raise BadShape(f"rows() needs {spec.height} rows, got more")
