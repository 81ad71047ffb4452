"""Pillow's images as arrays, with all the bits that their files have."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

ORIENTATION = 274  # tag of EXIF data
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF files
WHITE_IS_ZERO, UNSIGNED = 0, 1  # a photometric interpretation and a sample format
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of the bytes of a value
DEEP = re.compile("(RGB|RGBX|RGBA);16[BLN]")  # Pillow's names of pixels with 16 bits that can be read whole


def decode(image: Image.Image, least: int | None = None) -> np.ndarray:
    """H×W or H×W×C pixels of a Pillow image, upright by its EXIF tag: uint8, uint16, int32, uint32 or float32.

    least: a JPEG file may be decoded at a smaller scale, with neither side below this; None = as it is.
    Images of more than 8 bits never go through Pillow's `convert`, which clips them to 255.
    """
    if is_deep_colour(image):
        return decode_deep_colour(image)
    if least is not None:
        image.draft(image.mode, (least, least))
    tags = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("PA", "La", "RGBa") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")  # palettes, CMYK, YCbCr, Lab
    return as_tagged(np.asarray(image), tags)


def as_tagged(values: np.ndarray, tags: Mapping[int, Any]) -> np.ndarray:
    """Pixels of a TIFF file as its tags mean them, where Pillow heeds these for 8 bits alone."""
    is_unsigned = tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,)
    if values.dtype == np.int32 and tags.get(BITS_PER_SAMPLE) == (32,) and is_unsigned:
        return values.view(np.uint32)
    if values.dtype == np.uint16 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return 2 ** tags[BITS_PER_SAMPLE][0] - 1 - values
    return values


def upright_shape(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image that is not yet decoded, as `decode` turns it."""
    is_turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (image.width, image.height) if is_turned else (image.height, image.width)


def raw_mode(tile: Any) -> str:
    """Pillow's name of how pixels lie in a file; for some formats it is something else."""
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file, not yet decoded, has more than 8 bits and more than one value per pixel."""
    if not (tiles := getattr(image, "tile", None)) or image.mode[0] in "IF":
        return False
    if tiles[0].codec_name.startswith("ppm"):
        return tiles[0].args[-1] > 255
    return ";16" in raw_mode(tiles[0]) or max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8


def decode_deep_colour(image: Image.Image) -> np.ndarray:
    """H×W×C uint16 pixels of a file with 3 or 4 channels of 16 bits.

    Pillow keeps one byte of each value: the high one, or the low one if it is told that bytes come in the other order.
    """
    assert isinstance(image, ImageFile)
    if image.fp is None:
        raise ValueError("its file is closed")
    if not DEEP.fullmatch(raw_mode(image.tile[0])) or getattr(image, "tag_v2", {}).get(PLANAR) == 2:
        raise ValueError("it has more than 8 bits in a form that Pillow cuts to 8: save it as 16-bit RGB or RGBA PNG")
    image.fp.seek(0)
    content = image.fp.read()
    high, low = (Image.open(io.BytesIO(content)) for _ in range(2))
    low.tile = [in_other_order(tile) for tile in low.tile]
    image.close()
    upright = [np.asarray(ImageOps.exif_transpose(half)) for half in (high, low)]
    return upright[0].astype(np.uint16) * 256 + upright[1]


def in_other_order(tile: Any) -> Any:
    mode = raw_mode(tile)
    swapped = mode[:-1] + OTHER_ORDER[mode[-1]]
    return tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:]))
