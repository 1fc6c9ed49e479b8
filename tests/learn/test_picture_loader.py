# SPDX-License-Identifier: Apache-2.0
"""Batches of pictures: the same order for the same seed, the values that calibration feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.errors import BadArgument, BadData
from thinmaps.graph.quantise import real_values
from thinmaps.learn import InTurn, PictureLoader, RandomCrop, RandomFlip, RandomWindow
from thinmaps.run.pictures import fit_picture
from thinmaps.types import Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
LABELS = list(range(10))


def test_an_epoch_holds_every_picture_once_in_an_order_of_its_own() -> None:
    loader = PictureLoader(PIXELS, 5, (6, 6), labels=LABELS, seed=3)
    orders = [torch.cat([n for _, n in loader.batches_from(e, 0)]).tolist() for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == LABELS
    assert orders[0] != orders[1]
    again = PictureLoader(PIXELS, 5, (6, 6), labels=LABELS, seed=3)
    assert torch.cat([n for _, n in again]).tolist() == orders[0]
    other = PictureLoader(PIXELS, 5, (6, 6), labels=LABELS, seed=4)
    assert torch.cat([n for _, n in other]).tolist() != orders[0]


def test_an_epoch_can_be_entered_anywhere_and_moves_no_generator() -> None:
    loader = PictureLoader(PIXELS, 3, (6, 6))
    before = torch.get_rng_state()
    whole = list(loader.batches_from(2, 0))
    assert len(whole) == len(loader) == 3
    assert torch.equal(next(loader.batches_from(2, 1)), whole[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert len(PictureLoader(PIXELS, 99, (6, 6))) == 1


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_values_are_those_that_the_float_network_is_fed(tmp_path: Path, order: str) -> None:
    preprocessing = Preprocessing(order=order)  # type: ignore[arg-type]
    for index in range(3):
        Image.fromarray(PIXELS[index]).resize((9, 13)).save(tmp_path / f"{index}.png")
    pictures = open_pictures(tmp_path)
    loader = PictureLoader(tmp_path, 3, (5, 4), preprocessing, labels=[0, 1, 2])
    values, labels = next(iter(loader))
    assert values.dtype == torch.float32
    assert labels.dtype == torch.int64
    for made, label in zip(values, labels.tolist(), strict=True):
        fitted = fit_picture(pictures.load(label), preprocessing, (5, 4))
        assert np.array_equal(made.numpy(), real_values(fitted, preprocessing))


def test_a_part_of_a_set_keeps_its_labels() -> None:
    held_out = open_pictures(PIXELS).held_out()
    loader = PictureLoader(held_out, 2, (6, 6), labels=LABELS)
    (_, labels), *rest = loader
    assert sorted(labels.tolist()) == [4, 9]
    assert not rest


def test_workers_decode_the_same_batches() -> None:
    one, two = (PictureLoader(PIXELS, 4, (6, 6), workers=n) for n in (0, 1))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(BadData, match="10 pictures need as many labels, got 3"):
        PictureLoader(PIXELS, 2, (6, 6), labels=[1, 2, 3])
    with pytest.raises(BadArgument, match=r"batches of 1 picture or more.*got 0, -1 and 0"):
        PictureLoader(PIXELS, 0, (6, 6), seed=-1)
    with pytest.raises(BadData, match="iterable of pictures is empty"):
        PictureLoader([], 1, (6, 6))


def test_crops_move_pictures_and_mirror_what_is_missing() -> None:
    torch.manual_seed(0)
    batch = torch.arange(2 * 3 * 36.0).reshape(2, 3, 6, 6)
    padded = torch.nn.functional.pad(batch, (2,) * 4, mode="reflect")
    crops = RandomCrop(2)(batch.repeat(20, 1, 1, 1))
    found = set()
    for at, crop in enumerate(crops):
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(crop, padded[at % 2, :, y : y + 6, x : x + 6])
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) > 10
    assert RandomCrop(0)(batch) is batch
    with pytest.raises(BadArgument, match="a crop by 6 pixels needs larger pictures than 6x6"):
        RandomCrop(6)(batch)
    with pytest.raises(BadArgument, match="0 pixels or more, got -1"):
        RandomCrop(-1)


def test_flips_mirror_about_half_of_the_pictures() -> None:
    torch.manual_seed(0)
    batch = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(100, 1, 1, 1)
    made = InTurn(RandomCrop(0), RandomFlip())(batch)
    mirrored = sum(torch.equal(one, batch[0].flip(2)) for one in made)
    assert all(torch.equal(one, batch[0]) or torch.equal(one, batch[0].flip(2)) for one in made)
    assert 30 < mirrored < 70


def test_a_window_is_a_part_of_its_picture_at_any_place() -> None:
    torch.manual_seed(3)
    picture = torch.arange(30.0).reshape(1, 1, 5, 6)
    found = RandomWindow(3)(picture.repeat(200, 1, 1, 1))
    assert found.shape == (200, 1, 3, 3)
    corners = {float(part[0, 0, 0]) for part in found}
    assert corners == {row * 6.0 + column for row in range(3) for column in range(4)}
    for part in found:
        top, left = divmod(int(part[0, 0, 0]), 6)
        assert torch.equal(part, picture[0, :, top : top + 3, left : left + 3])
    with pytest.raises(BadArgument, match="a window of 6 pixels needs larger pictures than 5x6"):
        RandomWindow(6)(picture)
    with pytest.raises(BadArgument, match="1 pixel or more, got 0"):
        RandomWindow(0)
