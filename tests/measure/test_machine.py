# SPDX-License-Identifier: Apache-2.0
"""Rates are measured once, kept, read back as they were, and refused where they are damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from thinmaps.errors import BadArgument, BadData
from thinmaps.measure import machine
from thinmaps.plan.cost import DEFAULT_RATES, RATES, MachineRates


def test_rates_go_to_a_file_and_come_back(tmp_path: Path) -> None:
    rates = dataclasses.replace(DEFAULT_RATES, products_per_second=1 / 3e-12, cache_bytes=77)
    machine.save_rates(rates, tmp_path / "rates.json")
    assert machine.rates_of(str(tmp_path / "rates.json")) == rates


def test_a_name_is_a_table_and_anything_else_is_refused(tmp_path: Path) -> None:
    assert machine.rates_of("amx") is RATES["amx"]
    with pytest.raises(BadArgument, match="no machine 'abacus': known are portable, avx2"):
        machine.rates_of("abacus")
    with pytest.raises(BadArgument, match="no machine"):
        machine.rates_of(str(tmp_path))


def _damaged(change: str) -> bytes:
    document = {"format": 3, "rates": dataclasses.asdict(DEFAULT_RATES)}
    rates = document["rates"]
    assert isinstance(rates, dict)
    if change == "format":
        document["format"] = 1
    elif change == "missing":
        del rates["step_seconds"]
    elif change == "unknown":
        rates["colour"] = 1
    elif change == "swapped":
        rates["far_bytes_per_second"] = 2 * rates["near_bytes_per_second"]
    else:
        key, value = {
            "negative": ("step_seconds", -1.0),
            "nothing": ("sums_per_second", 0),
            "words": ("sums_per_second", "fast"),
            "half a byte": ("cache_bytes", 0.5),
            "endless": ("sums_per_second", float("inf")),
            "truth": ("tile_pixels", True),
        }[change]
        rates[key] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "change",
    ["format", "missing", "unknown", "swapped", "negative", "nothing", "words", "half a byte",
     "endless", "truth"],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, change: str) -> None:
    path = tmp_path / "rates.json"
    path.write_bytes(_damaged(change))
    with pytest.raises(BadData, match=r"rates\.json is no file of machine rates \(.*delete it"):
        machine.load_rates(path)


# Every rate by name, none with a number.
LIST = json.dumps(
    {"format": 3, "rates": [field.name for field in dataclasses.fields(MachineRates)]}
).encode()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"format": 1}', b"\xff\xfe", b"[" * 9999, LIST]
)
def test_what_is_no_file_of_rates_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rates.json"
    path.write_bytes(content)
    with pytest.raises(BadData, match="no file of machine rates") as caught:
        machine.load_rates(path)
    assert "\n" not in str(caught.value)


def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    measured: list[MachineRates] = []

    def measure() -> MachineRates:
        measured.append(dataclasses.replace(DEFAULT_RATES, step_seconds=1e-6))
        return measured[-1]

    monkeypatch.setattr(machine, "measure_rates", measure)
    assert machine.rates_of("here") == machine.rates_of("here") == measured[0]
    assert len(measured) == 1
    (kept,) = (tmp_path / "cache" / "thinmaps").iterdir()
    assert json.loads(kept.read_text())["isa"]


def test_a_cache_folder_that_cannot_be_made_is_named_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(machine, "measure_rates", lambda: pytest.fail("measured for nothing"))
    with pytest.raises(BadArgument, match=r"which cannot be made \(.*XDG_CACHE_HOME"):
        machine.rates_here()


def test_measured_rates_are_those_of_a_machine() -> None:
    rates = machine.measure_rates()
    assert machine._checked(dataclasses.asdict(rates)) == rates
    assert 1e9 < rates.products_per_second < 1e13
    assert rates.products_per_second > rates.depthwise_products_per_second
    assert 1e-9 < rates.step_seconds < 1e-4
