"""`augment`: D sees real images and fakes through the same random changes (DiffAugment: Zhao et al. 2020).

With few images D would learn them by heart; it cannot when it never sees one twice as it was. The VAE learns from its
opinion of changed fakes, through the changes. Draws are from torch's generator of the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST_SHIFT = 1 / 8  # of the side
CUT_OUT = 1 / 2  # of the side


def augmented(images: Tensor, names: Sequence[str]) -> Tensor:
    """Images (B, C, H, W) in [-1, 1], each changed by a draw of its own; the values may leave the range.

    Args:
        names: of `AUGMENTATIONS`, applied in their order.
    """
    for name in names:
        images = AUGMENTATIONS[name](images)
    return images


def _colour(images: Tensor) -> Tensor:
    """Another brightness (± 0.5), saturation (0 to twice, of colour images) and contrast (half to one and a half)."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _translation(images: Tensor) -> Tensor:
    """Shifted by up to an eighth of the side in each direction; what comes in is mid-grey."""
    n, _, height, width = images.shape
    margins = [round(side * LARGEST_SHIFT) for side in (height, width)]
    padded = pad(images, (margins[1], margins[1], margins[0], margins[0]))
    rows, columns = (
        torch.randint(2 * margin + 1, (n, 1), device=images.device) + torch.arange(side, device=images.device)
        for margin, side in zip(margins, (height, width), strict=True)
    )
    every = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor) -> Tensor:
    """A square of half the side is mid-grey; its centre is anywhere in the image, so part of it may lie outside."""
    n, _, height, width = images.shape
    inside = []
    for side in (height, width):
        centre = torch.rand(n, 1, device=images.device) * side
        distance = (torch.arange(side, device=images.device) + 0.5 - centre).abs()
        inside.append(distance < side * CUT_OUT / 2)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * ~hole


AUGMENTATIONS = {"colour": _colour, "translation": _translation, "cutout": _cutout}
