"""Reconstruction and scores in one call, as one network: what is exported to other runtimes."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.evidence import Evidence, Score

# They look at a PNG file, train a network, look at crops, or rank in NumPy: no graph of tensor operations.
NO_GRAPH = ("input_complexity", "png_bytes", "likelihood_regret", "lpath_copod", "patch_discriminator", "iwae")


class Scorer(nn.Module):
    """images (B, C, H, W) in [-1, 1] -> reconstructions (B, C, H, W) in [-1, 1], scores (B, k) float32.

    Networks are taken as they are evaluated: at their running statistics, and the posterior mean.

    Args:
        scores: fitted, by name; column i is the i-th of them.
    """

    def __init__(self, networks: AdversarialVAE, objective: Objective, scores: Mapping[str, Score]) -> None:
        super().__init__()
        self.networks = copy.deepcopy(networks).eval().requires_grad_(False)
        self.objective = objective
        self.scores = {name: copy.deepcopy(score) for name, score in scores.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        evidence = Evidence(self.networks, self.objective, images)
        columns = [score(evidence).float() for score in self.scores.values()]
        return evidence.reconstruction, torch.stack(columns, dim=1)
