"""How two sets of features lie among each other, by their nearest neighbours."""

from collections.abc import Iterator

import torch
from torch import Tensor

NEIGHBOURS = 5  # k
BLOCK = 2**24  # distances that are held at once: 128 MiB


def neighbour_metrics(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The ball of an image reaches to its k-th nearest neighbour of its own set. `precision`: share of fakes that lie in
    the ball of some real image. `recall`: share of real images in the ball of some fake. `density`: balls of real
    images that a fake lies in, divided by k, mean over fakes; may exceed 1. `coverage`: share of real images whose ball
    holds a fake.

    Args:
        real, fake: (n, F) and (m, F), both more than k. Distances are computed in float64: in float32, the way by a
            product of matrices, ten times as fast as any other, loses the small ones.
    """
    real, fake = real.double(), fake.double()
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    n_balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    covered, recalled = [], []
    for rows in blocks(len(real), len(fake)):
        distances = torch.cdist(real[rows], fake)
        in_ball = distances <= real_radii[rows, None]
        n_balls += in_ball.sum(0)
        covered.append(in_ball.any(1))
        recalled.append((distances <= fake_radii).any(1))
    return {
        "precision": share(n_balls > 0),
        "recall": share(torch.cat(recalled)),
        "density": (n_balls.double().mean() / k).item(),
        "coverage": share(torch.cat(covered)),
    }


def radii(features: Tensor, k: int) -> Tensor:
    """(n,): how far the k-th nearest other one of these features (n, F) is."""
    found = []
    for rows in blocks(len(features), len(features)):
        distances = torch.cdist(features[rows], features)
        distances.diagonal(rows.start).fill_(torch.inf)  # to itself
        found.append(distances.topk(k, largest=False).values[:, -1])
    return torch.cat(found)


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Rows that are compared with all columns at once."""
    step = max(1, BLOCK // n_columns)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def share(is_so: Tensor) -> float:
    return is_so.double().mean().item()
