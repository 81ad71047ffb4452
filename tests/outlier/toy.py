"""Networks so small that what they give can be computed by hand."""

import torch
from torch import Tensor, nn

from advvae.losses import Objective, mean_squared_error
from advvae.models import AdversarialVAE
from advvae.models.conv import Discriminator
from advvae.outlier.evidence import Evidence, FittedScore

SIDE = 4  # pixels: an image has D = 16 values


class ToyEncoder(nn.Module):
    """Posterior of an image with mean value v: μ = (v + shift, 0), σ² = (1, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        v = images.flatten(1).mean(1) + self.shift
        return torch.stack([v, torch.zeros_like(v)], 1), torch.tensor([1.0, 4.0]).log().expand(len(v), 2)


class ToyDecoder(nn.Module):
    """The image whose values are all half the first latent."""

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, 0] / 2).reshape(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


class ToyDiscriminator(Discriminator):
    """Features f = (first pixel, last pixel), logit = f₁ + 2 f₂ + 3."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.logit = nn.Linear(2, 1)
        self.logit.weight.data = torch.tensor([[1.0, 2.0]])
        self.logit.bias.data = torch.tensor([3.0])

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, [0, -1]]


def toy_networks() -> AdversarialVAE:
    return AdversarialVAE(ToyEncoder(), ToyDecoder(), ToyDiscriminator(), latent_dim=2)


def toy_evidence(images: Tensor, networks: AdversarialVAE | None = None, recon_weight: float = 0.1) -> Evidence:
    objective = Objective(mean_squared_error, kld_weight=0.2, recon_weight=recon_weight, gen_weight=7)
    return Evidence(networks or toy_networks(), objective, images)


def constant_images(*values: float) -> Tensor:
    """An image (1, SIDE, SIDE) for each value, all of whose pixels have it."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


def images_with_corners(*corners: tuple[float, float]) -> Tensor:
    """Images that are 0 but for their first and their last pixel."""
    images = torch.zeros(len(corners), 1, SIDE, SIDE)
    images[:, 0, 0, 0], images[:, 0, -1, -1] = torch.tensor(corners).T
    return images


def fit(score: FittedScore, evidence: Evidence, seed: int = 0) -> None:
    """Fit on the images of one batch."""
    score.fit(score.statistics(evidence), seed)
