# SPDX-License-Identifier: Apache-2.0
"""Picture files to the bytes that a network's `Picture` node reads: uint8 `(h, w, c)`, RGB or grey.

`load_picture` opens what people have: EXIF orientation is applied, grey, palette, CMYK and 16-bit
pictures become 8-bit RGB (16 bits keep their high byte), transparent pixels are laid on white as a
page shows them, of an animation the first frame counts. Whatever cannot be opened is `BadPicture`
with the file's name, and so is a picture of more pixels than Pillow's limit against
decompression bombs (about 89 million).

`fit_picture` brings a picture to the network's size by the rule that is part of the .thin file:

    crop      tighter side covers the input 1 to 1.15 times: centre-crop only; otherwise scale
              first (up or down), so that the crop takes 87.5 % of the tighter side
    stretch   plain resize, the aspect ratio is not kept
    none      the picture has exactly the input's size, or it is refused

Scaling is Pillow's bilinear filter, which averages when it shrinks. 87.5 % is the evaluation
crop of torchvision's classifiers (224 of 256); pictures prepared for it are not scaled twice.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from thinmaps.errors import BadData, BadPicture, BadShape
from thinmaps.types import Preprocessing

UInt8Array = NDArray[np.uint8]

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
CROP_SHARE = 0.875
CROP_ONLY_UP_TO = 1.15


def picture_paths(folder: str | Path) -> list[Path]:
    """Every picture file under `folder`, at any depth, sorted; hidden files are left out.

    Raises:
        BadData: the folder is absent, is a file, or holds no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise BadData(f"a folder of pictures is needed, but {str(folder)!r} {what}")
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    if not found:
        kinds = " ".join(sorted(PICTURE_SUFFIXES))
        raise BadData(f"the folder {str(folder)!r} holds no picture (looked for {kinds})")
    return sorted(found)


def load_picture(source: str | Path | bytes) -> UInt8Array:
    """The picture in a file, or in the bytes of one, as uint8 `(h, w, 3)` RGB.

    Raises:
        BadPicture: no such file, not a picture, damaged, cut short, or implausibly large.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else repr(str(source))
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with warnings.catch_warnings():
        # Pillow warns of harmless metadata; of a bomb it warns where we refuse.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(opened) as picture:
                picture.load()
                return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
        except FileNotFoundError:
            raise BadPicture(f"the picture {name} does not exist") from None
        except IsADirectoryError:
            raise BadPicture(f"the picture {name} is a directory") from None
        except UnidentifiedImageError:
            raise BadPicture(f"{name} is not a picture of a known kind") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            raise BadPicture(f"the picture {name} has more than {limit} million pixels") from None
        except BadPicture as refusal:
            raise BadPicture(f"the picture {name} {refusal}") from None
        except Exception as reason:  # decoders of foreign bytes raise whatever they like
            raise BadPicture(f"the picture {name} cannot be decoded: {reason}") from None


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of Pillow's to 8-bit RGB."""
    if picture.mode.startswith("I"):
        return _high_byte(picture).convert("RGB")
    if picture.mode == "F":
        raise BadPicture("holds floating-point pixels, whose range is unknown; save it as 8 bits")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return picture.convert("RGB")


def _high_byte(picture: Image.Image) -> Image.Image:
    """A 16-bit grey picture as 8 bits; Pillow itself does the same to 16-bit colour."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BadPicture(f"holds pixels of {values.min()}..{values.max()}, more than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def fit_picture(
    picture: UInt8Array, preprocessing: Preprocessing, size: tuple[int, int]
) -> UInt8Array:
    """`picture` (uint8 `(h, w, 3)` RGB) at `size` (height, width), as many channels as means.

    The order stays RGB (the `Picture` node reorders); a network of one channel gets grey, the
    luma of ITU-R 601.

    Raises:
        BadShape: `picture` is no uint8 RGB picture, or the network takes neither 1 nor 3 channels.
        BadPicture: `fit` is "none" and the size differs.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadShape(f"a picture is uint8 (h, w, 3), got {picture.dtype} {picture.shape}")
    if len(preprocessing.mean) not in (1, 3):
        raise BadShape(
            f"a picture has 1 or 3 channels, but the network takes {len(preprocessing.mean)}; "
            "give it arrays instead"
        )
    fitted = _fit(picture, preprocessing.fit, size)
    if len(preprocessing.mean) == 3:
        return fitted
    return np.asarray(Image.fromarray(fitted).convert("L"))[:, :, None]


def _fit(picture: UInt8Array, fit: str, size: tuple[int, int]) -> UInt8Array:
    """The picture at `size`, by the rule named `fit`."""
    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture)
    if fit == "none":
        raise BadPicture(
            f"the network takes pictures of exactly {size[0]}x{size[1]} (height x width), got "
            f"{picture.shape[0]}x{picture.shape[1]}; compress with --fit crop or --fit stretch"
        )
    if fit == "stretch":
        return _resize(picture, size)
    scaled = _scaled_size(picture.shape[:2], size)
    # Halves round to even, as torchvision's centre crop does.
    corner = [round((have - want) / 2) for have, want in zip(scaled, size, strict=True)]
    return _resize(picture, size, scaled, (corner[0], corner[1]))


def _scaled_size(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Height and width to scale a picture to before `want` is cut out of it."""
    coverage = min(have[0] / want[0], have[1] / want[1])
    if 1 <= coverage <= CROP_ONLY_UP_TO:
        return have
    factor = 1 / (coverage * CROP_SHARE)
    return (max(1, round(have[0] * factor)), max(1, round(have[1] * factor)))


def _resize(
    picture: UInt8Array,
    size: tuple[int, int],
    scaled: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> UInt8Array:
    """The part of `size` at `corner` of the picture at size `scaled`.

    Only that part is computed: a picture of one row would need gigabytes whole.
    """
    scaled = scaled or size
    if scaled == picture.shape[:2]:
        top, left = corner
        return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])
    rows, columns = picture.shape[0] / scaled[0], picture.shape[1] / scaled[1]
    box = (
        corner[1] * columns,
        corner[0] * rows,
        min((corner[1] + size[1]) * columns, picture.shape[1]),
        min((corner[0] + size[0]) * rows, picture.shape[0]),
    )
    whole = Image.fromarray(picture)
    return np.asarray(whole.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
