"""From images of any kind to equal ones: decoding, channels, size."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

FILTER = "bilinear, antialiased, of the centred square"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L" and television's grey
BITS_PER_SAMPLE, PLANAR = 258, 284  # tags of TIFF files
TOGETHER = 2**20  # values of images that are resized at once: many small images together are quicker, and fit memory
ROUNDING = 1e-6  # by which floats may leave [0, 1]: what arithmetic in float32 leaves behind
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of the bytes of a value
DEEP = re.compile("(RGB|RGBX|RGBA);16[BLN]")  # Pillow's names of pixels with 16 bits that can be read whole


def to_array(image: np.ndarray | Image.Image, size: int) -> np.ndarray:
    """H×W×C array, uint8 or uint16, C = 1, 2 (grey, alpha), 3 or 4 (RGB, alpha).

    size: the side that is needed in the end; a JPEG file may be decoded at a smaller scale, never below twice this.
    Raises ValueError for what is no image, and whatever Pillow raises for a broken file.
    """
    array = decode(image, size) if isinstance(image, Image.Image) else np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise ValueError(f"shape {array.shape} is not height × width × 1, 2, 3 or 4 channels")
    return to_integers(array)


def to_integers(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 pixels; floats in [0, 1] with 8 bits where these hold them all (as of v / 255), else with 16."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind != "f":
        raise ValueError(f"values of type {pixels.dtype}: uint8, uint16 or float in [0, 1] is needed")
    check_range(pixels, -ROUNDING, 1 + ROUNDING, "[0, 1]")
    pixels = pixels.astype(np.float32).clip(0, 1)
    eight_bits = np.rint(pixels * 255)
    if np.abs(pixels * 255 - eight_bits).max() < 1e-3:
        return eight_bits.astype(np.uint8)
    return np.rint(pixels * 65535).astype(np.uint16)


def check_range(pixels: np.ndarray, low: float, high: float, allowed: str) -> None:
    if not (pixels.min() >= low and pixels.max() <= high):  # written so that NaN fails too
        raise ValueError(f"values from {pixels.min()} to {pixels.max()} do not lie in {allowed}")


def decode(image: Image.Image, size: int) -> np.ndarray:
    """Pixels of a Pillow image, upright by its EXIF tag.

    Images of more than 8 bits never go through Pillow's `convert`, which clips them to 255.
    """
    if is_deep_colour(image):
        return decode_deep_colour(image)
    image.draft(image.mode, (2 * size, 2 * size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        check_range(pixels, 0, 65535, "[0, 65535]")
        return pixels.astype(np.uint16)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("PA", "La", "RGBa") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F"):  # palettes, CMYK, YCbCr, Lab
        image = image.convert("RGB")
    return np.asarray(image)


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
    assert image.fp is not None
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


def resized(arrays: Iterable[np.ndarray], size: int, channels: int) -> Iterator[np.ndarray]:
    """The images in order, in (n, channels, size, size) arrays of uint8 or uint16, as their sources have.

    Neighbours of equal shape are resized together, which is many times quicker for small images.
    """
    group: list[np.ndarray] = []
    for array in arrays:
        values = max(array.size, channels * size * size) * len(group)
        if group and (array.shape != group[0].shape or array.dtype != group[0].dtype or values >= TOGETHER):
            yield resize(np.stack(group), size, channels)
            group = []
        group.append(array)
    if group:
        yield resize(np.stack(group), size, channels)


def resize(arrays: np.ndarray, size: int, channels: int) -> np.ndarray:
    """(N, H, W, C) to (N, channels, size, size) of the same type: channels, then the centred square, then its size."""
    height, width = arrays.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = arrays[:, top : top + side, left : left + side]
    images = to_channels(torch.from_numpy(square.astype(np.float32)).permute(0, 3, 1, 2), channels, dtype=arrays.dtype)
    if side != size:
        images = F.interpolate(images.contiguous(), size=(size, size), mode="bilinear", antialias=True)
    return images.round().numpy().astype(arrays.dtype)


def to_channels(images: torch.Tensor, channels: int, dtype: np.dtype) -> torch.Tensor:
    """(N, 1 to 4, H, W) floats in the range of `dtype` to (N, channels, H, W); grey = luma, colour = repeat.

    What is transparent becomes black, the value that images have where nothing was measured.
    """
    if images.shape[1] in (2, 4):
        images = images[:, :-1] * (images[:, -1:] / np.iinfo(dtype).max)
    if images.shape[1] == 3 and channels == 1:
        return (images * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    return images.expand(-1, channels, -1, -1)
