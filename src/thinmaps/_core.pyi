"""The native core of thinmaps."""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

def codec_kernels() -> list[tuple[str, str]]: ...
def encode_unit(
    codec_id: str,
    isa: str,
    rows: Annotated[
        NDArray[numpy.uint8], dict(shape=(None, None, None), device="cpu", writable=False)
    ],
    zero_point: int,
    integers: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    tables: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    payload: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C")],
) -> tuple[int, int]: ...
def decode_unit(
    codec_id: str,
    isa: str,
    payload: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    width: int,
    column: int,
    zero_point: int,
    integers: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    tables: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    rows: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None), device="cpu")],
) -> int: ...
def sha256(
    head: bytes,
    rest: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
) -> str: ...
def isa() -> str:
    """The instruction set that engines use unless told otherwise."""

def isas() -> list[str]:
    """The instruction sets that run here, from the least to that of `isa`."""

def products_per_second(isa: str) -> float:
    """Products of integers that one core does in a second at most."""

def copied_bytes_per_second() -> float:
    """
    Bytes that one core reads and writes in a second when it copies within its L2 cache.
    """

class Weights:
    def __init__(self) -> None: ...

class Model:
    @property
    def weights_bytes(self) -> int: ...

class Builder:
    def __init__(self, arena_bytes: int, weights: Weights, isa: str) -> None: ...
    def buffer(self, offset: int, slot_bytes: int, slots: int) -> None: ...
    def map(
        self,
        name: str,
        shape: Sequence[int],
        scale: float,
        zero_point: int,
        is_float: bool,
        place: Sequence[int] | None,
    ) -> None: ...
    def node(
        self,
        name: str,
        op: str,
        inputs: Sequence[int],
        output: int,
        state: int,
        integers: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        weights: Annotated[
            NDArray[numpy.int8], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        bias: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        multiplier: Annotated[
            NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        table: Annotated[
            NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        codec_id: str,
        winograd_rows: int,
    ) -> None: ...
    def steps(
        self,
        steps: Annotated[
            NDArray[numpy.int32], dict(shape=(None, 4), order="C", device="cpu", writable=False)
        ],
    ) -> None: ...
    def build(self) -> Model: ...

class Engine:
    def __init__(
        self, model: Model, threads: int, externals: Sequence[int], inputs: int, prefault: bool
    ) -> None: ...
    def run(self, buffers: Sequence, first: int, stop: int) -> None: ...
    def profile(self, buffers: Sequence) -> list[int]: ...
    @property
    def encoded_bytes(self) -> list[int]: ...

    @property
    def overflows(self) -> list[int]: ...
    @property
    def arena(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), writable=False)]: ...

def winograd_algorithms() -> list[tuple[str, int, int]]:
    """(name, outputs, products) in one dimension, of each."""

def winograd_filter_floats(algorithm: int, isa: str, inputs: int, outputs: int) -> int:
    """Floats that transformed filters take."""

def winograd_scratch_floats(algorithm: int, isa: str, inputs: int, outputs: int) -> int:
    """Floats that a run needs beside its maps, whatever their size."""

def winograd_pack(
    algorithm: int,
    isa: str,
    weights: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None), order="C", device="cpu", writable=False),
    ],
    packed: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
) -> None:
    """Transform filters (k, c, 3, 3)."""

def winograd_convolve(
    algorithm: int,
    isa: str,
    x: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None), order="C", device="cpu", writable=False),
    ],
    filters: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    bias: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ]
    | None,
    pads: Sequence[int],
    relu: bool,
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    y: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu")
    ],
) -> None:
    """Convolve maps (n, h, w, c); pads are top, left, bottom, right."""
