"""What fitted scores have in common: the distance from a Gaussian, and the distance to the nearest neighbours."""

import numpy as np
import torch
from torch import Tensor

from advvae.outlier.evidence import FittedScore

ROUNDING = 1e-6  # relative spread of a float32 statistic below which it is a constant and its spread is rounding
RIDGE = 1e-6  # added to the variances of standardised statistics: some may follow from others
QUERIES = 1024  # rows compared with a bank at once: distances to 10,000 images take 80 MB in float64


def positive(name: str, value: int) -> int:
    """The value, when it is 1 or more. Raises ValueError otherwise."""
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, got {value}")
    return value


def centre_and_scale(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (k,) in float64 of statistics (N, k). The scale of a constant is 1, not its 0."""
    exact = statistics.double()
    centre, scale = exact.mean(0), exact.std(0, correction=0)
    is_constant = scale <= ROUNDING * exact.abs().amax(0)
    return centre, torch.where(is_constant, 1.0, scale)


class Mahalanobis(FittedScore):
    """sqrt((s - m)ᵀ Σ⁻¹ (s - m)), with the mean m and the covariance Σ of the training images' statistics s.

    Σ is the empirical covariance of the standardised statistics, plus a ridge of 1e-6. Its inverse is kept as a matrix
    `whitening` W with W Wᵀ = Σ⁻¹, so that the distance is a norm, ‖(s - m) W‖: never the root of a negative number.
    (Mahalanobis 1936.)
    """

    def fit(self, statistics: Tensor, seed: int) -> None:
        centre, scale = centre_and_scale(statistics)
        variances, directions = torch.linalg.eigh(self.covariance((statistics.double() - centre) / scale))
        whitening = directions / (variances + RIDGE).sqrt() / scale[:, None]
        self.state = {"mean": centre, "whitening": whitening}

    def covariance(self, standardised: Tensor) -> Tensor:
        """(k, k) of statistics (N, k) with mean 0."""
        return standardised.T @ standardised / len(standardised)

    def measure(self, statistics: Tensor) -> Tensor:
        state = self.state_like(statistics)
        return ((statistics - state["mean"]) @ state["whitening"]).norm(dim=1)


class LedoitWolfMahalanobis(Mahalanobis):
    """The same for many statistics and few images: Σ is shrunk towards a multiple of I (Ledoit & Wolf 2004)."""

    def covariance(self, standardised: Tensor) -> Tensor:
        from sklearn.covariance import ledoit_wolf

        return torch.from_numpy(np.asarray(ledoit_wolf(standardised.numpy(), assume_centered=True)[0]))


class NearestNeighbours(FittedScore):
    """Distance to the k-th nearest of the training images, by their statistics; to the farthest if there are fewer."""

    def __init__(self, k: int = 5) -> None:
        self.k = positive("k", k)

    def fit(self, statistics: Tensor, seed: int) -> None:
        self.state = {"bank": statistics.float()}

    def measure(self, statistics: Tensor) -> Tensor:
        bank = self.state_like(statistics)["bank"]
        k = min(self.k, len(bank))
        parts = (statistics,) if torch.compiler.is_exporting() else statistics.split(QUERIES)  # a graph has no loop
        return torch.cat([self.distances(rows, bank).topk(k, largest=False).values[:, -1] for rows in parts])

    def distances(self, statistics: Tensor, bank: Tensor) -> Tensor:
        """(B, N) of statistics (B, k) to those of a bank (N, k), without a tensor (B, N, k)."""
        raise NotImplementedError
