"""Error maps laid over the images that they are of, with the outline of what they should find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from advvae.figures import to_pixels, with_folder
from advvae.outlier.maps import coloured
from advvae.outlier.sheet import SIDE, sheet

OUTLINE = 2  # pixels: width of the white line around a mask, and of its black rim
OPACITY = 0.4  # of a map over its image


def overlays(
    images: torch.Tensor, masks: np.ndarray, maps: np.ndarray, captions: Sequence[str], path: Path, title: str
) -> None:
    """Draw of each image (B, C, H, W) in [-1, 1] itself, the map and the mask's outline over it, and its map.

    masks: (B, H, W) bool, True = anomalous. maps: (B, H, W), drawn in one scale, which is stated.
    captions: what stands above each image; it may have several lines.
    """
    factor = max(1, math.ceil(SIDE / images.shape[-1]))  # lines are drawn on the enlarged image: they stay thin
    largest = float(maps.max())
    image, colours = to_pixels(images).expand(-1, 3, -1, -1), coloured(maps, largest)
    covered = (1 - OPACITY) * image + OPACITY * colours
    parts = [_enlarged(part, factor) for part in (image, covered.round().to(torch.uint8), colours)]
    for tile, mask in zip(parts[1], masks, strict=True):
        _outline(tile, mask.repeat(factor, 0).repeat(factor, 1))
    names = ["input", "with its map\nand its mask", f"smoothed\n|difference|\n0 to {largest:.3f}"]
    sheet(parts, names, captions, title).save(with_folder(path))


def _outline(tile: torch.Tensor, mask: np.ndarray) -> None:
    """Draw a line around the True pixels of a mask (H, W) on the tile (3, H, W): white, outside that black."""
    from scipy.ndimage import binary_dilation

    square = np.ones((3, 3), dtype=bool)
    line, rim = (binary_dilation(mask, square, iterations=count * OUTLINE) for count in (1, 2))
    tile[:, torch.from_numpy(rim & ~line)] = 0
    tile[:, torch.from_numpy(line & ~mask)] = 255


def _enlarged(pixels: torch.Tensor, factor: int) -> torch.Tensor:
    return pixels.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
