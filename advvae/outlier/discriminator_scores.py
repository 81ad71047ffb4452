"""Scores from the discriminator D: its logits, and its penultimate features."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, normalize

from advvae.outlier.evidence import CROPS, DISCRIMINATOR, FEATURES, VAE, Evidence, FittedScore, needs
from advvae.outlier.fitting import LedoitWolfMahalanobis, NearestNeighbours, positive

MOST_FEATURES = 2048  # that are kept of an image: a bank of 10,000 images takes 82 MB, a covariance 34 MB
CROPS_AT_ONCE = 256  # that go through D together: at 64 px and 128 channels, a map of theirs takes 134 MB


@needs(DISCRIMINATOR)
def discriminator(evidence: Evidence) -> Tensor:
    """-D(x), the negative logit. No sigmoid: in float32 it is 1 from a logit of 17 on, and ranks would tie."""
    return -evidence.logit


@needs(VAE, DISCRIMINATOR)
def discriminator_recon(evidence: Evidence) -> Tensor:
    """-D(x̂), the negative logit of the reconstruction x̂ = decoder(μ)."""
    return -evidence.reconstruction_logit


@needs(VAE, FEATURES)
def feature_distance(evidence: Evidence) -> Tensor:
    """‖f(x) - f(x̂)‖, with D's penultimate features f (VAE-GAN, Larsen et al. 2016; f-AnoGAN, Schlegl et al. 2019)."""
    return (evidence.features - evidence.reconstruction_features).norm(dim=1)


def pooled(features: Tensor) -> Tensor:
    """Features (B, F) as they are up to MOST_FEATURES; more are averaged, neighbours together, to that many.

    Neighbours are pixels of one map before they are maps. What is averaged does not depend on the images.
    """
    return features if features.shape[1] <= MOST_FEATURES else adaptive_avg_pool1d(features[None], MOST_FEATURES)[0]


@needs(FEATURES)
class FeatureKnn(NearestNeighbours):
    """Cosine distance of f(x) to the k-th nearest training image, with D's penultimate features f (Sun et al. 2022).

    More than 2,048 features are averaged to that many (`pooled`).
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, F), each scaled to length 1."""
        return normalize(pooled(evidence.features))

    def distances(self, statistics: Tensor, bank: Tensor) -> Tensor:
        return 1 - statistics @ bank.T


@needs(FEATURES)
class FeatureMahalanobis(LedoitWolfMahalanobis):
    """Mahalanobis distance of D's penultimate features f(x) from the training images' (Lee et al. 2018).

    With a shrunk covariance, as in Rippel et al. 2021. More than 2,048 features are averaged to that many (`pooled`).
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        return pooled(evidence.features)


@needs(DISCRIMINATOR, CROPS)
class PatchDiscriminator(FittedScore):
    """-mean logit of crops of one image, normalised by their own batch statistics (DisCoPatch, Caetano et al. 2025).

    The crops of one image form the batch: each BatchNorm of D takes the mean and variance of this image's crops, whose
    shift away from the training images' is what D notices. The positions are drawn once, and shared by all images.

    Args:
        crops: of each image.
    """

    learns_from_images = False

    def __init__(self, crops: int = 64) -> None:
        self.crops = positive("crops", crops)

    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, 0): nothing is learnt from images."""
        return evidence.images.new_empty(len(evidence.images), 0)

    def fit(self, statistics: Tensor, seed: int) -> None:
        """State `positions` (crops, 2): how far down and to the right, as shares of what there is room for."""
        generator = torch.Generator().manual_seed(seed)
        self.state = {"positions": torch.rand(self.crops, 2, dtype=torch.float64, generator=generator)}

    def __call__(self, evidence: Evidence) -> Tensor:
        networks, crop = evidence.networks, evidence.crop
        assert networks.discriminator is not None
        assert crop is not None, "only networks trained on crops take them"
        groups = evidence.images.split(max(1, CROPS_AT_ONCE // self.crops))
        with normalised_by_image(networks.discriminator, self.crops):
            logits = torch.cat([networks.discriminate(self._cut(images, crop)) for images in groups])
        return -logits.unflatten(0, (-1, self.crops)).mean(1)

    def _cut(self, images: Tensor, side: int) -> Tensor:
        """The crops (B · crops, C, side, side) of images (B, C, H, W), those of one image side by side."""
        room = torch.tensor(images.shape[-2:]) - side + 1
        corners = (self.state["positions"] * room).long().tolist()
        return torch.stack([images[..., y : y + side, x : x + side] for y, x in corners], 1).flatten(0, 1)


@contextmanager
def normalised_by_image(discriminator: nn.Module, n_crops: int) -> Iterator[None]:
    """Each BatchNorm2d normalises by the crops of one image: `n_crops` maps at a time, all their pixels.

    Its affine parameters stay; other normalisations are as they were, and afterwards all are.
    """

    def normalise(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(norm, nn.BatchNorm2d)
        maps = inputs[0].unflatten(0, (-1, n_crops))
        variance, mean = torch.var_mean(maps, dim=(1, 3, 4), correction=0, keepdim=True)
        normalised = ((maps - mean) / (variance + norm.eps).sqrt()).flatten(0, 1)
        return normalised if not norm.affine else normalised * norm.weight[:, None, None] + norm.bias[:, None, None]

    norms = [module for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(normalise) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
