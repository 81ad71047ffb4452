"""What a decoder makes of the ways between latents: interpolations, and traversals of single dimensions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advvae.data import Split
from advvae.figures import labelled_rows
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, of_all_images
from advvae.sampler import decoded

Decode = Callable[[Tensor], Tensor]  # latents (n, d) to images (n, C, H, W) in [-1, 1], on the CPU

PAIRS = 8  # rows of interpolations.png
STEPS = 8  # decoded in each of them
TRAVERSED = 10  # dimensions at most that traversals.png shows
FARTHEST = 3.0  # to where each is moved, from minus that: the prior's standard deviation is 1
MOVES = 9  # steps of it
ACTIVE = 0.01  # variance of its posterior mean above which a dimension counts as active
STRAIGHT = 1e-6  # sine of an angle below which the arc is a straight line, or not defined


def draw_latent_pictures(
    networks: AdversarialVAE,
    validation: Split,
    *,
    batch_size: int,
    device: Device,
    folder: Path,
    num_workers: int = 0,
) -> dict[str, int]:
    """Draw `interpolations.png` and `traversals.png` from the latents of validation images.

    Returns:
        `active_units`: the dimensions whose posterior mean has a variance above ACTIVE over the images (Burda et al.
        2016, "Importance weighted autoencoders").
    """
    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    means = of_all_images(
        networks, validation, lambda images, _: {"mean": networks.encode(images)[0]}, what="encoding", **reading
    )["mean"].cpu()

    def decode(latents: Tensor) -> Tensor:
        return torch.cat([images.cpu() for images in decoded(networks, latents, device=device, batch_size=batch_size)])

    draw_interpolations(decode, validation, means, folder / "interpolations.png")
    draw_traversals(decode, validation, means, folder / "traversals.png")
    return {"active_units": int((activity(means) > ACTIVE).sum())}


def activity(means: Tensor) -> Tensor:
    """Variance (d,) float64 of each dimension of posterior means (n, d) over the images."""
    return means.double().var(0, correction=0)


def slerp(start: Tensor, end: Tensor, steps: Tensor) -> Tensor:
    """Spherical linear interpolation (T, d) float64 between two latents (d,), at steps (T,) from 0 to 1.

    sin((1 - t)Ω)/sin Ω · start + sin(tΩ)/sin Ω · end, Ω the angle between them (White 2016, "Sampling generative
    networks"): the norm, which tells how typical a latent of many dimensions is, does not sink in between. Where the
    angle is 0 or π, or a latent is 0, the way is the straight line.
    """
    start, end, t = start.double(), end.double(), steps.double()[:, None]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < STRAIGHT or not start.any() or not end.any():
        return (1 - t) * start + t * end
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def draw_interpolations(decode: Decode, validation: Split, means: Tensor, path: Path) -> None:
    """Draw PAIRS rows: an image, STEPS decoded latents on the arc between its posterior mean and another's, that image.

    The images are spread evenly over `validation`, whose posterior means (n, d) `means` are.
    """
    positions = torch.linspace(0, len(validation) - 1, 2 * PAIRS).round().long()
    first, last = torch.cat(list(validation.subset(positions).batches(2 * PAIRS))).split(PAIRS)
    steps = torch.linspace(0, 1, STEPS)
    ways = [slerp(start, end, steps) for start, end in zip(*means[positions].split(PAIRS), strict=True)]
    between = decode(torch.cat(ways).float()).split(STEPS)
    rows = [torch.cat([a[None], way, b[None]]) for a, way, b in zip(first, between, last, strict=True)]
    headings = ["image", *(f"{step}/{STEPS - 1}" for step in range(STEPS)), "image"]
    names = [f"pair {number}" for number in range(1, PAIRS + 1)]
    labelled_rows(rows, names, headings, "Decoded latents on the arc from one validation image to another", path)


def draw_traversals(decode: Decode, validation: Split, means: Tensor, path: Path) -> None:
    """Draw a row for each of the most active dimensions: it goes from -3 to 3 in the latent of the first image."""
    variances, dimensions = activity(means).sort(descending=True)
    shown, values = dimensions[:TRAVERSED], torch.linspace(-FARTHEST, FARTHEST, MOVES)
    latents = means[0].repeat(len(shown), MOVES, 1)
    for row, dimension in zip(latents, shown, strict=True):
        row[:, dimension] = values
    unmoved, *moved = decode(torch.cat([means[:1], latents.flatten(0, 1)])).split([1, *[MOVES] * len(shown)])
    beside = torch.cat([*validation.subset(torch.tensor([0])).batches(1), unmoved])
    white = torch.ones_like(beside)  # the image stands in the first row alone
    rows = [torch.cat([white if number else beside, row]) for number, row in enumerate(moved)]
    names = [f"z{dimension}, activity {variances[rank]:.2g}" for rank, dimension in enumerate(shown.tolist())]
    n_active = f"{int((variances > ACTIVE).sum())} of {len(variances)} are active"
    title = f"A validation image's latent, one dimension moved, the most active first ({n_active})"
    labelled_rows(rows, names, ["image", "decoded", *(f"{value:g}" for value in values.tolist())], title, path)
