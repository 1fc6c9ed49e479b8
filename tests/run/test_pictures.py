# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind arrive as 8-bit RGB; what cannot be opened is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from thinmaps.errors import BadData, BadPicture, BadShape
from thinmaps.run.pictures import fit_picture, load_picture, picture_paths
from thinmaps.types import Preprocessing


def _pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(5)
    return generator.integers(0, 256, (height, width, channels), np.uint8)


def _png(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def test_an_rgb_picture_arrives_unchanged_from_a_file_or_from_bytes(tmp_path: Path) -> None:
    pixels = _pixels(5, 7)
    (tmp_path / "a.png").write_bytes(_png(Image.fromarray(pixels)))
    assert_array_equal(load_picture(tmp_path / "a.png"), pixels, strict=True)
    assert_array_equal(load_picture(_png(Image.fromarray(pixels))), pixels, strict=True)


def test_exif_orientation_is_applied() -> None:
    pixels = _pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    loaded = load_picture(_png(Image.fromarray(pixels), exif=exif))
    assert_array_equal(loaded, np.rot90(pixels, -1))


def test_grey_is_repeated_in_all_channels() -> None:
    grey = _pixels(4, 4, 1)
    loaded = load_picture(_png(Image.fromarray(grey[:, :, 0])))
    assert_array_equal(loaded, np.repeat(grey, 3, axis=2))


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    loaded = load_picture(_png(Image.fromarray(deep)))
    assert loaded[0, :, 0].tolist() == [0, 0, 1, 0x7F, 0xFF]


def test_transparent_pixels_are_laid_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 255, 127]
    assert load_picture(_png(Image.fromarray(pixels)))[0, :, 0].tolist() == [255, 0, 128]


def test_a_palette_with_a_transparent_entry_is_laid_on_white() -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putdata([0, 1])
    assert load_picture(_png(indexed)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    loaded = load_picture(_png(indexed, transparency=0))
    assert loaded.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_becomes_rgb() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(stream, "JPEG")
    red, green, blue = load_picture(stream.getvalue())[4, 4].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert load_picture(stream.getvalue())[1, 1].tolist() == [255, 0, 0]


def test_a_picture_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    whole = _png(Image.fromarray(_pixels(64, 64)))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadPicture, match=r"cut\.png"):
        load_picture(tmp_path / "cut.png")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(BadPicture, match=r"odd\.png"):
        load_picture(tmp_path / "odd.png")


def test_an_absent_picture_and_a_directory_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadPicture, match=r"gone\.png.*does not exist"):
        load_picture(tmp_path / "gone.png")
    with pytest.raises(BadPicture, match="directory"):
        load_picture(tmp_path)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = _png(Image.new("1", (10_000, 9_500)))
    with pytest.raises(BadPicture, match="million pixels"):
        load_picture(bomb)


def test_floating_point_pixels_are_refused_with_the_cure() -> None:
    stream = io.BytesIO()
    Image.new("F", (4, 4)).save(stream, "TIFF")
    with pytest.raises(BadPicture, match="save it as 8 bits"):
        load_picture(stream.getvalue())


CROP = Preprocessing()
SIZE = (224, 224)


@pytest.mark.parametrize(("side", "offset"), [(224, 0), (227, 2), (256, 16)])
def test_a_picture_prepared_for_the_input_is_only_cropped(side: int, offset: int) -> None:
    picture = _pixels(side, side + 3)
    left = round((side + 3 - 224) / 2)
    expected = picture[offset : offset + 224, left : left + 224]
    fitted = fit_picture(picture, CROP, SIZE)
    assert_array_equal(fitted, expected)
    assert fitted.flags.c_contiguous


@pytest.mark.parametrize("shape", [(375, 500), (300, 260), (100, 60)])
def test_other_pictures_are_scaled_so_that_the_crop_takes_seven_eighths(
    shape: tuple[int, int],
) -> None:
    picture = _pixels(*shape)
    factor = 256 / min(shape)
    height, width = (round(side * factor) for side in shape)
    whole = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    expected = np.asarray(whole)[top : top + 224, left : left + 224]
    # The same filter on the same grid; positions are computed in another order, hence 1.
    difference = fit_picture(picture, CROP, SIZE).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_a_picture_of_one_row_costs_no_more_than_others() -> None:
    assert fit_picture(_pixels(1, 20_000), CROP, SIZE).shape == (224, 224, 3)


def test_stretch_keeps_the_corners() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[20:, 40:] = 255
    fitted = fit_picture(picture, Preprocessing(fit="stretch"), (20, 20))
    assert fitted[0, 0, 0] == 0
    assert fitted[19, 19, 0] == 255
    assert fitted[:9, :].max() == 0


def test_none_takes_the_exact_size_only() -> None:
    exact = Preprocessing(fit="none")
    picture = _pixels(20, 30)
    assert_array_equal(fit_picture(picture, exact, (20, 30)), picture)
    with pytest.raises(BadPicture, match=r"exactly 30x20.*got 20x30"):
        fit_picture(picture, exact, (30, 20))


def test_a_grey_network_gets_one_channel() -> None:
    grey = Preprocessing(mean=(0.5,), std=(0.5,))
    picture = np.full((20, 20, 3), (255, 0, 0), np.uint8)
    fitted = fit_picture(picture, grey, (20, 20))
    assert fitted.shape == (20, 20, 1)
    assert fitted[0, 0, 0] == 76  # 0.299 * 255


def test_shapes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(BadShape, match="uint8"):
        fit_picture(np.zeros((4, 4, 3), np.float32), CROP, SIZE)
    with pytest.raises(BadShape, match="takes 4"):
        fit_picture(_pixels(4, 4), Preprocessing(mean=(0.0,) * 4, std=(1.0,) * 4), SIZE)


def test_pictures_of_a_folder_come_sorted_from_every_depth(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.JPG", "b/a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert picture_paths(tmp_path) == [tmp_path / "b" / "a.png", tmp_path / "z.JPG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="holds no picture"):
        picture_paths(tmp_path)
    with pytest.raises(BadData, match="does not exist"):
        picture_paths(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadData, match="is a file"):
        picture_paths(tmp_path / "file")
