# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the .thin reader: `python tests/hostile/fuzz_file.py --seconds 60 --seed 1`.

Every round damages a good file in one to three ways that know its structure: bits, header fields,
places of the document, elements and shapes of tensors; most get a right checksum afterwards. The
reader must refuse with `BadFile`, or give a model that the engine then runs. Anything else (another
exception, a crash, a hang) is a finding: the file is kept, and its seed repeats the round.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from small_models import small_model, wide_model

from thinmaps.errors import BadFile
from thinmaps.file import Model, encode, load
from thinmaps.file.container import pack, seal, unpack
from thinmaps.graph.tail import evaluate
from thinmaps.run.engine import Engine

INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 63, 64, 255, 256, 2**16, 2**20, 2**31, 2**40, 10**30)
VALUES: tuple[Any, ...] = (
    *INTEGERS,
    0.5,
    1e-45,
    1e308,
    True,
    None,
    "",
    "conv",
    [],
    {},
    [0],
    {"id": "add"},
)

Random = np.random.Generator


def choose(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        yield value, key
        if isinstance(item, dict | list):
            yield from places_in(item)


def change_value(random: Random, document: Any) -> None:
    """Replace, nudge, copy, drop or add one value."""
    places = list(places_in(document))
    container, key = choose(random, places)
    other, other_key = choose(random, places)
    old, way = container[key], int(random.integers(6))
    if way == 0 and type(old) is int:
        container[key] = old + int(random.integers(-3, 4))
    elif way == 1:
        container[key] = other[other_key]
    elif way == 2:
        del container[key]
    elif way == 3 and isinstance(container, list):
        container.insert(key, old)
    elif way == 4 and isinstance(old, str):
        names = [c[k] for c, k in places if isinstance(c[k], str)]
        container[key] = choose(random, names)
    else:
        container[key] = choose(random, VALUES)


def change_document(random: Random, data: bytes) -> bytes:
    text, arrays = unpack(data)
    document = json.loads(text)
    # Values may come to hold one another; JSON then says so, and the round is of no use.
    change_value(random, document)
    return pack(json.dumps(document), arrays)


def change_tensor(random: Random, data: bytes) -> bytes:
    text, arrays = unpack(data)
    name = choose(random, sorted(arrays))
    array = arrays[name]
    way = int(random.integers(4))
    if way == 0 and array.size:
        flat = array.reshape(-1).view(np.uint8)
        flat[random.integers(flat.size)] ^= 1 << int(random.integers(8))
    elif way == 1 and array.size:
        limits = (
            (0, -1, 1e38)
            if array.dtype.kind == "f"
            else (
                np.iinfo(array.dtype).min,
                np.iinfo(array.dtype).max,
                0,
                1,
            )
        )
        array.reshape(-1)[random.integers(array.size)] = choose(random, limits)
    elif way == 2 and array.ndim:
        arrays[name] = np.delete(array, 0, axis=int(random.integers(array.ndim)))
    else:
        arrays[name] = arrays[choose(random, sorted(arrays))]
    return pack(text, arrays)


def change_header(random: Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change_value(random, header)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return seal(len(encoded).to_bytes(8, "little") + encoded + data[8 + length :])


def change_bits(random: Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        # The header is where structure is; the rest is long and dull.
        end = min(choose(random, (8, 200, len(damaged))), len(damaged))
        damaged[int(random.integers(end))] ^= 1 << int(random.integers(8))
    return seal(bytes(damaged)) if random.integers(2) else bytes(damaged)


def cut(random: Random, data: bytes) -> bytes:
    first, stop = sorted(random.integers(0, len(data), 2).tolist())
    return choose(random, (data[:first], seal(data[:first] + data[stop:]), data + data[first:stop]))


CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    change_document, change_document, change_document, change_tensor, change_tensor, change_header,
    change_bits, cut,
)  # fmt: skip


def damage(random: Random, data: bytes) -> bytes:
    for _ in range(int(random.integers(1, 4))):
        try:
            data = choose(random, CHANGES)(random, data)
        except (BadFile, ValueError, KeyError, IndexError, OverflowError, RecursionError):
            return data  # damaged beyond what the next change can open
    return data


def run(model: Model) -> None:
    """What was accepted must run, to the end of the tail."""
    network = model.plan.source
    inputs = {
        name: np.zeros(network.maps[name].shape, np.dtype(network.maps[name].dtype))
        for name in network.inputs
    }
    only = inputs[network.inputs[0]] if len(inputs) == 1 else inputs
    maps = Engine(model.plan).maps(only)
    with np.errstate(all="ignore"):
        evaluate(model.tail, {name: made.astype(np.float32) for name, made in maps.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    arguments = parser.parse_args()
    originals = [encode(small_model()), encode(wide_model())]
    path, accepted, seed = Path("fuzzed.thin"), 0, arguments.seed
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        random = np.random.default_rng(seed)
        path.write_bytes(damage(random, choose(random, originals)))
        try:
            run(load(path))
            accepted += 1
        except BadFile:
            pass
        except BaseException:
            print(f"seed {seed}: {path} is neither refused nor run", file=sys.stderr)
            raise
        seed += 1
    path.unlink(missing_ok=True)
    print(f"{seed - arguments.seed} files, {accepted} of them accepted and run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
