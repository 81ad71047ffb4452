"""Whether samples are copies: the training images that they are nearest to, pixel by pixel."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advvae.data import Split
from advvae.data.splits import divide
from advvae.figures import labelled_rows
from advvae.losses import mean_squared_error
from advvae.models.evaluation import Device
from advvae.progress import watched

MEASURED = 256  # samples, and validation images, at most
DRAWN = 8  # samples of neighbours.png
NEIGHBOURS = 5  # beside each of them
HEADINGS = ("sample", "nearest", "2nd", "3rd", "4th", "5th")
TITLE = "Samples and the training images nearest to them (mse: to the nearest)"
CHUNK = 256  # training images compared at a time


def draw_neighbours(
    samples: Tensor, validation: Split, train: Split, *, device: Device, path: Path, num_workers: int = 0
) -> dict[str, float]:
    """Draw samples (n, C, H, W) in [-1, 1] beside their nearest training images, and measure how near these are.

    Returns:
        `nearest_train_mse`: squared distance per pixel, in [-1, 1], of a sample to the nearest training image, mean
        over MEASURED samples at most; `nearest_train_mse_val`: the same of as many validation images, or of all where
        there are fewer: no copies. Samples that are far nearer are copies, or blurred: the picture tells. Of networks
        trained on crops the centred crops are compared.
    """
    samples = samples[:MEASURED].to(device)
    n_real = min(len(samples), len(validation))
    spread = torch.linspace(0, len(validation) - 1, n_real).round().long()
    reading: dict[str, Any] = {"device": device, "num_workers": num_workers}
    real = torch.cat(list(validation.subset(spread).batches(CHUNK, **reading)))
    found = nearest(torch.cat([samples, real]), train, NEIGHBOURS, **reading)
    distances = squared_distances(torch.cat([samples, real]), train, found[:, 0], **reading)
    rows = [
        torch.cat([sample[None], images_at(train, positions, **reading)])
        for sample, positions in zip(samples[:DRAWN], found, strict=False)
    ]
    names = [f"mse {distance:.3g}" for distance in distances[: len(rows)].tolist()]
    labelled_rows(rows, names, HEADINGS[: len(rows[0])], TITLE, path)
    of_samples, of_real = distances.split([len(samples), n_real])
    return {"nearest_train_mse": of_samples.mean().item(), "nearest_train_mse_val": of_real.mean().item()}


def nearest(queries: Tensor, train: Split, k: int, *, device: Device, num_workers: int = 0) -> Tensor:
    """Positions (q, k) in `train` of the images nearest to queries (q, C, H, W), the nearest first.

    Fewer than k where there are fewer. The training images are read batch by batch, of which the nearest are kept.
    """
    flat = queries.flatten(1)
    kept, found = flat.new_empty(len(flat), 0), torch.empty(len(flat), 0, dtype=torch.int64, device=flat.device)
    chunks = divide(torch.arange(len(train)), CHUNK)
    batches = train.batches(CHUNK, device, num_workers=num_workers)
    for images, positions in zip(watched(batches, "comparing with training images", len(chunks)), chunks, strict=True):
        distances = torch.cat([kept, torch.cdist(flat, images.flatten(1))], 1)
        candidates = torch.cat([found, positions.to(flat.device).expand(len(flat), -1)], 1)
        kept, chosen = distances.topk(min(k, distances.shape[1]), largest=False)
        found = candidates.gather(1, chosen)
    return found.cpu()


def squared_distances(
    queries: Tensor, train: Split, positions: Tensor, *, device: Device, num_workers: int = 0
) -> Tensor:
    """(x - y)², mean over channels and pixels, of each query (q, C, H, W) and the training image at its position (q,).

    (q,) float64 on the CPU. Free of the rounding by which products of matrices tell a copy from its original.
    """
    batches = train.subset(positions).batches(CHUNK, device, num_workers=num_workers)
    sizes = train.subset(positions).batch_sizes(CHUNK)
    distances = [mean_squared_error(own, images) for own, images in zip(queries.split(sizes), batches, strict=True)]
    return torch.cat(distances).cpu().double()


def images_at(split: Split, positions: Tensor, *, device: Device, num_workers: int = 0) -> Tensor:
    """The images (n, C, H, W) in [-1, 1] of a split at positions (n,)."""
    return torch.cat(list(split.subset(positions).batches(CHUNK, device, num_workers=num_workers)))
