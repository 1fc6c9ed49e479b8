# SPDX-License-Identifier: Apache-2.0
"""A codec's configuration survives as text, and damaged text is refused in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from codec_cases import Setting, maps, settings

from thinmaps.errors import BadFile, ThinmapsError
from thinmaps.file.codec_text import from_text, to_text
from thinmaps.types import MapSpec

SPEC = MapSpec(3, 5, 8, 1.0, 128)


@pytest.mark.parametrize("setting", [pytest.param(s, id=s.name) for s in settings()])
def test_every_codec_comes_back_from_its_text(setting: Setting) -> None:
    codec = setting.fit(SPEC, 2)
    text = to_text(codec)
    again = from_text(text)
    assert to_text(again) == text
    for values in maps(SPEC).values():
        expected = codec.encode(values, SPEC)
        assert again.encode(values, SPEC).units == expected.units
        np.testing.assert_array_equal(again.decode(expected), codec.decode(expected), strict=True)


def damaged() -> list[str]:
    codec = Setting("narrow", (("bits", 3),)).fit(SPEC, 1)
    held = json.loads(to_text(codec))
    name = min(held["arrays"])
    found = ["", "[]", "{", json.dumps({"codec": held["codec"]})]
    for change in (
        {"dtype": "object"},
        {"bytes": "*"},
        {"bytes": ""},
        {"shape": [-1]},
        {"shape": [2**40]},
        {"shape": 8},
    ):
        arrays = {**held["arrays"], name: {**held["arrays"][name], **change}}
        found.append(json.dumps({**held, "arrays": arrays}))
    found.append(json.dumps({**held, "arrays": {**held["arrays"], "more": held["arrays"][name]}}))
    found.append(json.dumps({**held, "codec": {**held["codec"], "bits": True}}))
    return found


@pytest.mark.parametrize("text", damaged())
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ThinmapsError) as refusal:
        from_text(text)
    assert isinstance(refusal.value, BadFile)
    assert "\n" not in str(refusal.value)
