"""Scores from the latent: how far the posterior, and what the likelihood is made of, lie from the training images'."""

import math
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from advvae.errors import UserError
from advvae.latent_samplers import fit_gaussian_mixture
from advvae.outlier.evidence import VAE, Evidence, FittedScore, needs
from advvae.outlier.fitting import Mahalanobis, positive


@needs(VAE)
class LatentMahalanobis(Mahalanobis):
    """Mahalanobis distance of the posterior mean μ from those of the training images (Denouden et al. 2018)."""

    def statistics(self, evidence: Evidence) -> Tensor:
        return evidence.mean


@needs(VAE)
class LatentGmm(FittedScore):
    """-log Σⱼ wⱼ N(μ given mⱼ, Σⱼ): a Gaussian mixture of the training images' posterior means (Ghosh et al. 2020).

    Args:
        components: of full covariance; fewer where each would get fewer than two images per latent.
    """

    def __init__(self, components: int = 10) -> None:
        self.components = positive("components", components)

    def statistics(self, evidence: Evidence) -> Tensor:
        return evidence.mean

    def fit(self, statistics: Tensor, seed: int) -> None:
        """State, of each component: log-weight (K,), mean (K, d), and (K, d, d) U with U Uᵀ = Σ⁻¹."""
        mixture = fit_gaussian_mixture(statistics, self.components, seed)
        self.state = {
            "log_weights": torch.from_numpy(np.log(mixture.weights_)),
            "means": torch.from_numpy(mixture.means_),
            "whitening": torch.from_numpy(mixture.precisions_cholesky_),
        }

    def measure(self, statistics: Tensor) -> Tensor:
        state = self.state_like(statistics)
        whitening = state["whitening"]
        whitened = torch.einsum("kbd,kde->kbe", statistics - state["means"][:, None], whitening)
        log_determinant = whitening.diagonal(dim1=1, dim2=2).log().sum(1)  # of Σ^-½
        constant = state["log_weights"] + log_determinant - statistics.shape[1] / 2 * math.log(2 * math.pi)
        return -(constant[:, None] - whitened.square().sum(2) / 2).logsumexp(0)


@needs(VAE)
class LPath(Mahalanobis):
    """Mahalanobis distance of the likelihood path (‖x - x̂‖, ‖μ‖, ‖σ‖), x̂ = decoder(μ) (Huang et al. 2024).

    These three, through which the likelihood is computed, are near to sufficient for it, and tell more than their sum.
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        return likelihood_path(evidence)


@needs(VAE)
class LPathCopod(FittedScore):
    """The likelihood path, scored by COPOD (Li et al. 2020): how far in the tails of the training images it lies.

    PyOD's COPOD ranks the images to be scored among the training images and among each other. Each image is therefore
    given to it alone.

    Raises:
        UserError: PyOD is not installed.
    """

    def __init__(self) -> None:
        if find_spec("pyod") is None:
            raise UserError("scores: lpath_copod needs PyOD: pip install 'advvae[pyod]'")

    def statistics(self, evidence: Evidence) -> Tensor:
        return likelihood_path(evidence)

    def fit(self, statistics: Tensor, seed: int) -> None:
        self.state = {"statistics": statistics}

    def measure(self, statistics: Tensor) -> Tensor:
        from pyod.models.copod import COPOD

        copod = COPOD().fit(self.state["statistics"].numpy())
        return torch.from_numpy(np.concatenate([copod.decision_function(row) for row in statistics[:, None].numpy()]))


def likelihood_path(evidence: Evidence) -> Tensor:
    """‖x - x̂‖, ‖μ‖, ‖σ‖ of each image, (B, 3) float64 on the CPU."""
    error = (evidence.images[0].numel() * evidence.squared_error).sqrt()
    deviation = (0.5 * evidence.logvar).exp().norm(dim=1)
    return torch.stack([error, evidence.mean.norm(dim=1), deviation], 1).cpu().double()
