"""Synthetic outliers: the images of any split, flipped, turned, corrupted or torn to patches. No download is needed.

A shifted image follows from the image, its row and the seed alone, whatever its batch and the device: everything is
computed on the CPU, in pixel values of [0, 255] (whole numbers in float64, whose sums are exact in any order), and
rounded to the bits of the original, so that a score cannot tell a shift by finer values.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from advvae.shift_names import SEVERITIES, shift_names

if TYPE_CHECKING:
    import torch

    from advvae.data.splits import Split

GRID = 4  # patches that `shuffle` tears an image to, each way


def shifted(split: Split, name: str, seed: int) -> Split:
    """The same images after a shift, in a split of its name. Random shifts draw for each image from `seed` and its row.

    name: one of shift_names("shifts").
    """
    import torch

    assert shift_names(name) == [name], f"{name} is not one shift"
    dtype = np.uint16 if split.images.dtype == torch.uint16 else np.uint8
    return replace(split, name=name, transform=partial(shift_batch, name=name, seed=seed, dtype=dtype))


def shift_batch(images: torch.Tensor, rows: torch.Tensor, *, name: str, seed: int, dtype: type) -> torch.Tensor:
    """Images (B, C, side, side) in [-1, 1] after a shift, rounded to what `dtype`, uint8 or uint16, can hold."""
    import torch

    from advvae.data.splits import to_floats

    largest = np.iinfo(dtype).max
    pixels = np.rint((images.cpu().double().numpy() + 1) * (largest / 2)) * (255 / largest)
    family, _, number = name.partition("_")
    strength = SEVERITIES[family][int(number) - 1] if number else 0
    draws = [np.random.default_rng([seed, row]) for row in rows.tolist()] if family in ("noise", "shuffle") else []
    changed = shift_pixels(pixels, family, strength, draws)
    integers: np.ndarray = np.rint(changed * (largest / 255)).clip(0, largest).astype(dtype)
    return to_floats(torch.from_numpy(integers), images.device)


def shift_pixels(pixels: np.ndarray, family: str, strength: float, draws: list[np.random.Generator]) -> np.ndarray:
    """Pixels (B, C, side, side) float64 in [0, 255] after one of SHIFTS; the result may leave the range.

    strength: as in SEVERITIES. draws: a generator for each image, where the shift is random.
    """
    match family:
        case "hflip":
            return pixels[..., ::-1]
        case "vflip":
            return pixels[..., ::-1, :]
        case "rot90":
            return np.rot90(pixels, axes=(-2, -1))
        case "invert":
            return 255 - pixels
        case "noise":
            normal = [generator.standard_normal(pixels.shape[1:], dtype=np.float32) for generator in draws]
            return pixels + 255 * strength * np.stack(normal)
        case "blur":
            from scipy.ndimage import gaussian_filter

            sigma = strength * max(1, pixels.shape[-1] / 32)
            return gaussian_filter(pixels, sigma=(sigma, sigma), axes=(-2, -1))
        case "contrast":
            mean = pixels.mean(axis=(-2, -1), keepdims=True)
            return mean + strength * (pixels - mean)
        case "pixelate":
            return pixelated(pixels, max(1, round(strength * pixels.shape[-1])))
        case "jpeg":
            return jpeg_coded(pixels, int(strength))
        case "shuffle":
            return shuffled(pixels, draws)
    raise AssertionError(family)


def pixelated(pixels: np.ndarray, coarse: int) -> np.ndarray:
    """(B, C, side, side) of coarse × coarse squares, each the mean of the pixels below it, by the share that is.

    Without these shares, as means of whole pixels, mild severities would move edges by up to one pixel.
    """
    side = pixels.shape[-1]
    edges = np.linspace(0, side, coarse + 1)[:, None]
    column = np.arange(side)
    shares = (np.minimum(edges[1:], column + 1) - np.maximum(edges[:-1], column)).clip(0) * (coarse / side)
    spread = shares[((column + 0.5) * coarse / side).astype(int)]  # (side, side): each pixel takes its square's mean
    return spread @ pixels @ spread.T


def jpeg_coded(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(B, C, side, side) written as JPEG files (8 bits) and read again."""
    from PIL import Image

    coded = []
    for image in np.rint(pixels).astype(np.uint8):
        file = BytesIO()
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(file, "jpeg", quality=quality)
        coded.append(np.asarray(Image.open(file)).reshape(*image.shape[1:], -1).transpose(2, 0, 1))
    return np.stack(coded).astype(np.float64)


def shuffled(pixels: np.ndarray, draws: list[np.random.Generator]) -> np.ndarray:
    """(B, C, side, side) with the GRID × GRID patches of each image in another order.

    Where the side is no multiple of GRID, the patches fill its centre, and what is left at the border stays.
    """
    images, channels, side, _ = pixels.shape
    patch = side // GRID
    across = slice(side % GRID // 2, side % GRID // 2 + GRID * patch)
    centre = np.s_[:, :, across, across]
    patches = pixels[centre].reshape(images, channels, GRID, patch, GRID, patch).transpose(0, 2, 4, 1, 3, 5)
    order = np.stack([generator.permutation(GRID * GRID) for generator in draws])
    moved = patches.reshape(images, GRID * GRID, channels, patch, patch)[np.arange(images)[:, None], order]
    moved = moved.reshape(patches.shape).transpose(0, 3, 1, 4, 2, 5)
    result = pixels.copy()
    result[centre] = moved.reshape(pixels[centre].shape)
    return result
