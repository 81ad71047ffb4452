"""`augment`: D sees real images and fakes through the same random changes (DiffAugment: Zhao et al. 2020).

With few images D would learn them by heart; it cannot when it never sees one twice as it was. The VAE learns from its
opinion of changed fakes, through the changes. Draws are from torch's generator of the device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST_SHIFT = 1 / 8  # of the side
CUT_OUT = 1 / 2  # of the side


Change = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [-1, 1] -> the same ones changed; the values may leave the range."""


def augmented(images: Tensor, names: Sequence[str]) -> Tensor:
    """Images (B, C, H, W) in [-1, 1], each changed by a draw of its own.

    Args:
        names: of `AUGMENTATIONS`, applied in their order.
    """
    return drawn_change(images, names)(images)


def drawn_change(like: Tensor, names: Sequence[str]) -> Change:
    """A change of each image of a batch of this shape, drawn once: it is the same one every time that it is applied."""
    changes = [AUGMENTATIONS[name](like) for name in names]

    def change(images: Tensor) -> Tensor:
        for each in changes:
            images = each(images)
        return images

    return change


def _colour(like: Tensor) -> Change:
    """Another brightness (± 0.5), saturation (0 to twice, of colour images) and contrast (half to one and a half)."""
    brightness, saturation, contrast = torch.rand(3, len(like), 1, 1, 1, device=like.device)

    def change(images: Tensor) -> Tensor:
        images = images + (brightness - 0.5)
        if images.shape[1] > 1:
            grey = images.mean(1, keepdim=True)
            images = grey + (images - grey) * (2 * saturation)
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (images - mean) * (contrast + 0.5)

    return change


def _translation(like: Tensor) -> Change:
    """Shifted by up to an eighth of the side in each direction; what comes in is mid-grey."""
    n, _, height, width = like.shape
    margins = [round(side * LARGEST_SHIFT) for side in (height, width)]
    rows, columns = (
        torch.randint(2 * margin + 1, (n, 1), device=like.device) + torch.arange(side, device=like.device)
        for margin, side in zip(margins, (height, width), strict=True)
    )
    every = torch.arange(n, device=like.device)[:, None, None]

    def change(images: Tensor) -> Tensor:
        padded = pad(images, (margins[1], margins[1], margins[0], margins[0]))
        return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return change


def _cutout(like: Tensor) -> Change:
    """A square of half the side is mid-grey; its centre is anywhere in the image, so part of it may lie outside."""
    n, _, height, width = like.shape
    inside = []
    for side in (height, width):
        centre = torch.rand(n, 1, device=like.device) * side
        distance = (torch.arange(side, device=like.device) + 0.5 - centre).abs()
        inside.append(distance < side * CUT_OUT / 2)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return lambda images: images * ~hole


AUGMENTATIONS = {"colour": _colour, "translation": _translation, "cutout": _cutout}
