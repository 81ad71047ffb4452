"""Negative data augmentation: training images made unlike the data, a further kind of fake for the discriminator.

A discriminator that only ever sees reconstructions and samples learns how those differ from the data; what it says of
images far from both is arbitrary. Images that keep the data's pixels but lose its structure close the gap (Sinha et
al., ICLR 2021, arXiv 2102.05113). None of them is a real outlier.

Every kind takes images (B, C, H, W) in [-1, 1], as many partners, each another image of the batch, and a CPU generator,
and returns images of the same shape and range. A kind may leave an image as it is; `make_negatives` sorts that out.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

JIGSAW_CELLS = 4  # cells along a side
SWAPS = 2  # pairs of cells
ELASTIC_CELLS = 4  # control points of the displacement along a side
ELASTIC_SIZE = 0.35  # standard deviation of the displacement, in half sides of the image
ROUNDING = 1e-5  # up to which pixels are the same: less than a step of 16-bit images, 3e-5


def make_negatives(images: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor | None:
    """As many negatives as images: each a different image's, of one of `kinds`, which share the batch equally.

    One that equals an image it was made of, such as a box cut out of the background, would call a real image fake: the
    batch's next one that does not takes its place. None where all do, such as mixtures of a single image with itself.

    Args:
        images: (B, C, H, W) in [-1, 1].
        kinds: names in `NEGATIVES`.
    """
    order = torch.randperm(len(images), generator=generator)
    images = images[order.to(images.device)]
    partners = images.roll(1, 0)
    parts = zip(kinds, images.tensor_split(len(kinds)), partners.tensor_split(len(kinds)), strict=True)
    negatives = torch.cat([NEGATIVES[kind](part, other, generator) for kind, part, other in parts if len(part)])
    differs = (_differ(negatives, images) & _differ(negatives, partners)).cpu()
    if not differs.any():
        return None
    return negatives[_next(differs).to(images.device)].contiguous(memory_format=torch.channels_last)


def jigsaw(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """The image's 4 × 4 cells in a random order (Noroozi & Favaro 2016)."""
    order = _uniform(images, generator, JIGSAW_CELLS**2).argsort(1)
    return _with_cells(images, order)


def swap(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Two pairs of the image's 4 × 4 cells exchanged; each pair has one of the four cells in the middle."""
    count, rows = JIGSAW_CELLS**2, torch.arange(len(images), device=images.device)
    order = torch.arange(count, device=images.device).repeat(len(images), 1)
    middle = torch.tensor([5, 6, 9, 10], device=images.device)
    for _ in range(SWAPS):
        first = middle[_integers(images, generator, 4)]
        second = (first + 1 + _integers(images, generator, count - 1)) % count
        order[rows, first], order[rows, second] = order[rows, second], order[rows, first]
    return _with_cells(images, order)


def cutmix(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of the image replaced by another image's (Yun et al. 2019): rows, columns, or a box.

    The rectangle covers a quarter to three quarters of the image.
    """
    share = 0.25 + 0.5 * _uniform(images, generator, 1)
    shape = _integers(images, generator, 3)[:, None]
    height = torch.where(shape == 0, share, torch.where(shape == 1, 1.0, share.sqrt()))
    width = torch.where(shape == 0, 1.0, torch.where(shape == 1, share, share.sqrt()))
    return torch.where(_boxes(images, generator, height, width), partners, images)


def cutout(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """A box of a quarter to five eighths of each side filled with the image's darkest value (DeVries & Taylor 2017)."""
    height, width = (0.25 + 0.375 * _uniform(images, generator, 1) for _ in range(2))
    return torch.where(_boxes(images, generator, height, width), images.amin((1, 2, 3), keepdim=True), images)


def mixup(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Three to seven tenths of the image and the rest of another (Zhang et al. 2018)."""
    share = 0.3 + 0.4 * _uniform(images, generator, 1)[..., None, None]
    return share * images + (1 - share) * partners


def rotate(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter turn, a half turn, or three quarters (Tack et al. 2020: a shift that makes images unlike the data)."""
    turns = _integers(images, generator, 3)[:, None, None, None]
    turned = [images.rot90(number, (2, 3)) for number in (1, 2, 3)]
    return torch.where(turns == 0, turned[0], torch.where(turns == 1, turned[1], turned[2]))


def flip(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored, left to right or upside down."""
    upside_down = _integers(images, generator, 2)[:, None, None, None] == 1
    return torch.where(upside_down, images.flip(2), images.flip(3))


def elastic(images: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Bent by a smooth random displacement, stronger than handwriting varies (Simard et al. 2003)."""
    coarse = torch.randn(len(images), 2, ELASTIC_CELLS, ELASTIC_CELLS, generator=generator).to(images.device)
    displacement = ELASTIC_SIZE * F.interpolate(coarse, size=images.shape[2:], mode="bicubic")
    identity = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(identity, list(images.shape), align_corners=False) + displacement.permute(0, 2, 3, 1)
    width, height = images.shape[3], images.shape[2]
    border = 1 - 1 / torch.tensor([width, height], device=images.device)  # centres of the outermost pixels
    grid = grid.clamp(-border, border)  # as padding_mode="border", which MPS does not have
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


NEGATIVES: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    function.__name__: function for function in (jigsaw, swap, cutmix, cutout, mixup, rotate, flip, elastic)
}


def _differ(images: Tensor, others: Tensor) -> Tensor:
    """(B,) whether an image is another one than its counterpart."""
    return (images - others).abs().amax((1, 2, 3)) > ROUNDING


def _next(chosen: Tensor) -> Tensor:
    """(B,) of each place the nearest chosen one from there on, going around; itself where it is chosen (B,)."""
    n = len(chosen)
    places = torch.arange(n)
    steps = (places - places[:, None]) % n
    return (steps + n * ~chosen).argmin(1)


def _uniform(images: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """(B, count) in [0, 1). Drawn on the CPU, so that a seed gives the same on every device."""
    return torch.rand(len(images), count, generator=generator).to(images.device)


def _integers(images: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """(B,) from 0 to count - 1."""
    return torch.randint(count, (len(images),), generator=generator).to(images.device)


def _boxes(images: Tensor, generator: torch.Generator, height: Tensor, width: Tensor) -> Tensor:
    """Masks (B, 1, H, W), true inside a box of this share (B, 1) of the height and the width, anywhere in the image."""
    masks = []
    for side, share in zip(images.shape[2:], (height, width), strict=True):
        start = _uniform(images, generator, 1) * (1 - share) * side
        positions = torch.arange(side, device=images.device) + 0.5
        masks.append((positions > start) & (positions < start + share * side))  # (B, side)
    return (masks[0][:, :, None] & masks[1][:, None, :])[:, None]


def _with_cells(images: Tensor, order: Tensor) -> Tensor:
    """The images with their grid of cells rearranged: cell i of the result is cell order[:, i]. Margins stay."""
    n, channels, height, width = images.shape
    side = JIGSAW_CELLS
    cell_height, cell_width = height // side, width // side
    inner = images[:, :, : side * cell_height, : side * cell_width]
    cells = inner.reshape(n, channels, side, cell_height, side, cell_width).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    cells = cells[torch.arange(n, device=images.device)[:, None], order]
    arranged = cells.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).reshape(inner.shape)
    result = images.clone()
    result[:, :, : side * cell_height, : side * cell_width] = arranged
    return result
