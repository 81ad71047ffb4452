"""From images of any kind to equal ones: values, channels, size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from advvae.data.decoding import decode, upright_shape
from advvae.data.source import Form, Raw

FILTER = "bilinear, antialiased"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L" and television's grey
TOGETHER = 2**20  # values of images that are resized at once: many small images together are quicker, and fit memory
ROUNDING = 1e-6  # by which floats may leave [0, 1], and halves be missed: what arithmetic in float32 leaves behind
REMEDY = "set dataset.window=[low,high] or dataset.percentiles=[0.5,99.5]"


def to_array(image: np.ndarray | Image.Image | Raw, form: Form) -> np.ndarray:
    """H×W×C array, uint8 or uint16, C = 1, 2 (grey, alpha), 3 or 4 (RGB, alpha): 0 is black, the largest value white.

    Without a window, a JPEG file may be decoded at a smaller scale, never below twice the side of `form`.
    Raises ValueError for what is no image or has values that need a window, and whatever readers raise for a broken
    file.
    """
    raw = to_raw(image, None if form.window else 2 * form.size)
    if window := form.window or raw.window:
        return windowed(raw.values, window, raw.inverted)
    if isinstance(image, Raw) and (raw.values.dtype.kind != "f" or raw.inverted):
        raise ValueError(f"nothing says which of its {span(raw.values)} are black and white: {REMEDY}")
    if isinstance(image, Image.Image) and raw.values.dtype in (np.int32, np.uint32):  # as some TIFF and PGM files
        check_range(raw.values, 0, 65535)
        return raw.values.astype(np.uint16)
    return to_integers(raw.values)


def raw_values(image: np.ndarray | Image.Image | Raw) -> np.ndarray:
    """H×W×C numbers as the file has them, in its unit, C = 1 or 3: what percentiles are taken of.

    Raises as to_array does, and for numbers that are none (NaN).
    """
    values = to_raw(image).values
    colour = values[:, :, :-1] if values.shape[2] in (2, 4) else values
    check_numbers(colour)
    return colour


def to_raw(image: np.ndarray | Image.Image | Raw, least: int | None = None) -> Raw:
    """The image decoded, with H×W×C values; see `decode` for `least`."""
    raw = image if isinstance(image, Raw) else Raw(decode(image, least) if isinstance(image, Image.Image) else image)
    values = np.asarray(raw.values)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or 0 in values.shape:
        raise ValueError(f"shape {values.shape} is not height × width × 1, 2, 3 or 4 channels")
    return Raw(values, raw.window, raw.inverted)


def windowed(values: np.ndarray, window: tuple[float, float], inverted: bool = False) -> np.ndarray:
    """H×W×C integers from clip((v − low) / (high − low), 0, 1), or one minus that if inverted; alpha as it is."""
    if values.shape[2] in (2, 4):
        parts = [windowed(values[:, :, :-1], window, inverted), to_integers(values[:, :, -1:])]
        deep = any(part.dtype == np.uint16 for part in parts)
        return np.concatenate([in_16_bits(part) if deep else part for part in parts], axis=2)
    check_numbers(values)
    low, high = window
    shares = values.astype(np.result_type(values, np.float32))  # which holds 16 bits; numbers of 32 get float64
    if low == high:  # the narrowest window that files have
        shares = (shares > low).astype(np.float32)
    else:
        shares -= low
        shares /= high - low
        np.clip(shares, 0, 1, out=shares)
    return quantised(np.subtract(1, shares, out=shares) if inverted else shares)


def to_integers(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 pixels as they are; floats in [0, 1] as `quantised` makes them."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind != "f":
        raise ValueError(f"values of type {pixels.dtype}, where uint8, uint16 or float in [0, 1] is needed: {REMEDY}")
    check_range(pixels, -ROUNDING, 1 + ROUNDING)
    return quantised(pixels.astype(np.float32).clip(0, 1))


def quantised(shares: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] in steps of 1/65535, as uint16, or as uint8 where all lie on steps of 1/255 then."""
    deep = (shares * 65535 + 0.5).astype(np.uint16)
    eight_bits = deep // 257
    return eight_bits.astype(np.uint8) if np.array_equal(eight_bits * 257, deep) else deep


def in_16_bits(pixels: np.ndarray) -> np.ndarray:
    """uint16: 255 becomes 65535 = 255 · 257."""
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257


def check_range(values: np.ndarray, low: float, high: float) -> None:
    if not (values.min() >= low and values.max() <= high):  # written so that NaN fails too
        check_numbers(values)  # which no window would mend
        raise ValueError(f"{span(values)} do not lie in [{round(low)}, {round(high)}]: {REMEDY}")


def check_numbers(values: np.ndarray) -> None:
    if values.dtype.kind not in "buif":
        raise ValueError(f"values of type {values.dtype} are no plain numbers")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError("some of its values are no numbers (NaN)")


def span(values: np.ndarray) -> str:
    return f"values from {values.min()} to {values.max()}"


def resized(arrays: Iterable[np.ndarray], form: Form) -> Iterator[np.ndarray]:
    """The images in order, in (n, channels, size, size) arrays of uint8 or uint16, as to_array makes them.

    Neighbours of equal shape are resized together, which is many times quicker for small images.
    """
    group: list[np.ndarray] = []
    for array in arrays:
        values = max(array.size, form.channels * form.size**2) * len(group)
        if group and (array.shape != group[0].shape or array.dtype != group[0].dtype or values >= TOGETHER):
            yield resize(np.stack(group), form)
            group = []
        group.append(array)
    if group:
        yield resize(np.stack(group), form)


def resize(arrays: np.ndarray, form: Form) -> np.ndarray:
    """(N, H, W, C) to (N, channels, size, size) of the same type: channels, then a square if need be, then its size."""
    values = cropped(arrays) if form.resize == "crop" else arrays
    images = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)
    images = to_channels(images, form.channels, dtype=arrays.dtype)
    if form.resize == "pad":
        images = F.pad(images, padding(*images.shape[2:]))
    if images.shape[2:] != (form.size, form.size):
        images = F.interpolate(images.contiguous(), size=(form.size, form.size), mode="bilinear", antialias=True)
    return images.round().numpy().astype(arrays.dtype)


def cropped(arrays: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, S, S, C): the centred square."""
    height, width = arrays.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return arrays[:, top : top + side, left : left + side]


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """How much makes a square of an image: (left, right, top, bottom), as F.pad takes it."""
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return left, side - width - left, top, side - height - top


def to_channels(images: torch.Tensor, channels: int, dtype: np.dtype) -> torch.Tensor:
    """(N, 1 to 4, H, W) floats in the range of `dtype` to (N, channels, H, W); grey = luma, colour = repeat.

    What is transparent becomes black, the value that images have where nothing was measured.
    """
    if images.shape[1] in (2, 4):
        images = images[:, :-1] * (images[:, -1:] / np.iinfo(dtype).max)
    if images.shape[1] == 3 and channels == 1:
        return (images * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    return images.expand(-1, channels, -1, -1)


def height_and_width(image: np.ndarray | Image.Image | Raw) -> tuple[int, int]:
    """Of an image as its file has it, upright; to_array may decode it at a smaller scale."""
    if isinstance(image, Image.Image):
        return upright_shape(image)
    height, width = (image.values if isinstance(image, Raw) else image).shape[:2]
    return height, width


def resized_mask(mask: np.ndarray | Image.Image | Raw, form: Form, shape: tuple[int, int]) -> np.ndarray:
    """(size, size) uint8 of 0 and 1, by the geometry of `resize`: 1 where at least half of a pixel's area is not 0.

    Where that is nowhere and something of the mask is in the square, 1 marks the pixels that hold most of it: no
    lesion is lost because it is small.

    shape: height and width of the mask's image, upright. Raises ValueError for a mask of another shape, or no mask.
    """
    values = to_raw(mask).values
    if values.shape[:2] != tuple(shape):
        sides = (f"{height} × {width}" for height, width in (values.shape[:2], shape))
        raise ValueError("the mask has {} pixels and the image {}".format(*sides))
    check_numbers(values)
    marked = (values != 0)[None]
    if values.shape[2] in (2, 4):  # with alpha
        marked = marked[..., :-1] & marked[..., -1:]
    marked = marked.any(axis=3, keepdims=True)
    if form.resize == "crop":
        marked = cropped(marked)
    if form.resize == "pad":
        left, right, top, bottom = padding(*shape)
        marked = np.pad(marked, ((0, 0), (top, bottom), (left, right), (0, 0)))
    marked = marked[0, :, :, 0]
    share = overlaps(marked.shape[0], form.size) @ marked @ overlaps(marked.shape[1], form.size).T
    return ((share >= min(0.5, share.max()) - ROUNDING) & (share > 0)).astype(np.uint8)


def overlaps(n: int, size: int) -> np.ndarray:
    """(size, n): how much of each of `size` equal parts of a line lies in each of its n pixels; rows sum to 1."""
    edges = np.linspace(0, n, size + 1)
    pixels = np.arange(n)
    common = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return common.clip(0) * (size / n)
