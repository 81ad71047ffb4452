"""From images of any kind to equal ones: decoding, channels, size."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

FILTER = "bilinear, antialiased, of the centred square"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L" and television's grey
LARGE = 2**18  # values of an image above which it is resized alone: many small ones at once are quicker


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
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"values of type {array.dtype}, not uint8 or uint16")
    return array


def decode(image: Image.Image, size: int) -> np.ndarray:
    """Pixels of a Pillow image, upright by its EXIF tag.

    Images of more than 8 bits never go through Pillow's `convert`, which clips them to 255.
    """
    if isinstance(image, PngImageFile) and image.tile and image.tile[0].args in ("RGB;16B", "RGBA;16B"):
        return decode_deep_png(image)
    image.draft(image.mode, (2 * size, 2 * size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return deep_pixels(np.asarray(image))
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("PA", "La", "RGBa") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):  # palettes, CMYK, YCbCr, Lab
        image = image.convert("RGB")
    return np.asarray(image)


def decode_deep_png(image: PngImageFile) -> np.ndarray:
    """H×W×C uint16 pixels of a PNG file with 3 or 4 channels of 16 bits.

    Pillow keeps one byte of each value: the first, or the second if it is told that bytes come in the other order.
    """
    assert image.fp is not None
    image.fp.seek(0)
    content = image.fp.read()
    first, second = (PngImageFile(io.BytesIO(content)) for _ in range(2))
    second.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in second.tile]
    image.close()
    return np.asarray(first).astype(np.uint16) * 256 + np.asarray(second)


def deep_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint16 pixels of a grey image with more than 8 bits: whole numbers in [0, 65535], or floats in [0, 1]."""
    limit = 1 if pixels.dtype.kind == "f" else 65535
    if not (pixels.min() >= 0 and pixels.max() <= limit):  # written so that NaN fails too
        raise ValueError(f"values from {pixels.min()} to {pixels.max()} do not lie in [0, {limit}]")
    return np.rint(pixels * 65535.0).astype(np.uint16) if limit == 1 else pixels.astype(np.uint16)


def resized(arrays: Iterable[np.ndarray], size: int, channels: int) -> Iterator[np.ndarray]:
    """The images in order, in (n, channels, size, size) arrays of uint8 or uint16, as their sources have.

    Neighbours of equal shape are resized together, which is many times quicker for small images.
    """

    def alike(numbered: tuple[int, np.ndarray]) -> tuple[object, ...]:
        number, array = numbered
        return array.shape, array.dtype, number if array.size > LARGE else -1

    for _, group in groupby(enumerate(arrays), alike):
        yield resize(np.stack([array for _, array in group]), size, channels)


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
