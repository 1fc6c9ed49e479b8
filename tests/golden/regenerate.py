# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files: bytes that must never change, and what they decode to.

    cd tests && python -m golden.regenerate [CODEC ...]

One JSON file per setting and zero point: the codec's configuration and tables, a map's geometry,
and for each kind of map its rows, their payload and what that decodes to. Numbers in decimal, bytes
in hexadecimal. A change of these files is a change of format and deserves its own commit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from codec_cases import ZERO_POINTS, Setting, UInt8Array, maps, read_back, settings, written

from thinmaps.codecs import Codec
from thinmaps.types import MapSpec

FOLDER = Path(__file__).parent
SHAPE = (2, 3, 5)


class Case(NamedTuple):
    """One unit: its rows, its payload, and the rows that the payload decodes to."""

    rows: UInt8Array
    payload: bytes
    restored: UInt8Array


class Golden(NamedTuple):
    """One file."""

    codec: Codec
    spec: MapSpec
    cases: dict[str, Case]


def golden_files(setting: Setting) -> list[Path]:
    """The files that must exist for a setting."""
    folder = FOLDER / setting.codec_id
    return [folder / f"{setting.name}-zero{zero_point}.json" for zero_point in ZERO_POINTS]


def read_golden(file: Path) -> Golden:
    """What `write_golden` wrote."""
    document = json.loads(file.read_text())
    spec = MapSpec(*document["shape"], 1.0, document["zero_point"])
    tables = {
        name: np.array(table["values"], table["dtype"])
        for name, table in document["tables"].items()
    }
    cases = {
        kind: Case(
            np.frombuffer(bytes.fromhex(case["rows"]), np.uint8).reshape(spec.shape),
            bytes.fromhex(case["payload"]),
            np.frombuffer(bytes.fromhex(case["restored"]), np.uint8).reshape(spec.shape),
        )
        for kind, case in document["cases"].items()
    }
    return Golden(read_back(document["codec"], tables), spec, cases)


def write_golden(file: Path, setting: Setting, zero_point: int) -> None:
    """Encode and decode a small map of each kind by the reference."""
    spec = MapSpec(*SHAPE, 1.0, zero_point)
    codec = setting.fit(spec, spec.height)
    values, tables = written(codec)
    document: dict[str, Any] = {
        "codec": values,
        "tables": {
            name: {"dtype": str(table.dtype), "values": table.tolist()}
            for name, table in tables.items()
        },
        "shape": SHAPE,
        "zero_point": zero_point,
        "cases": {},
    }
    for kind, rows in maps(spec).items():
        payload = codec.encode_unit(rows, spec)
        restored = codec.decode_unit(payload, spec, spec.height)
        document["cases"][kind] = {
            "rows": rows.tobytes().hex(),
            "payload": payload.hex(),
            "restored": restored.tobytes().hex(),
        }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")


def main(codec_ids: list[str]) -> None:
    """Rewrite the files of the codecs named, or of all."""
    for setting in settings():
        if not codec_ids or setting.codec_id in codec_ids:
            for file, zero_point in zip(golden_files(setting), ZERO_POINTS, strict=True):
                write_golden(file, setting, zero_point)


if __name__ == "__main__":
    main(sys.argv[1:])
