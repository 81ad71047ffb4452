"""Where latents are drawn: from the prior, or from a mixture fitted to what the decoder was trained on.

The file of a fitted mixture loads with `torch.load(path, weights_only=True)`:

    format                  version of this layout
    identity                what the mixture was fitted to: checksums of the networks, dataset, seed, …
    weights, means, factors as in `Mixture`
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.files import replacing
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior
from advvae.models.evaluation import Device, of_all_images
from advvae.outlier.detector_file import is_of

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

logger = logging.getLogger(__name__)

FORMAT = 1
COMPONENTS = 10
FIT_IMAGES = 20_000  # training images that a mixture is fitted to, at most
CHUNK = 256  # images that are encoded at a time: batch_size changes no mixture


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σⱼ wⱼ N(mⱼ, Lⱼ Lⱼᵀ) over latents, all in float64 on the CPU.

    weights: (K,) w, whose sum is 1.
    means: (K, d) m.
    factors: (K, d, d) L, lower triangular.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def moved(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Take noise (n, d) ~ N(0, I) to mⱼ + Lⱼ noise, each row by a component j of its own: (n, d) as `noise`."""
        chosen = torch.multinomial(self.weights, len(noise), replacement=True, generator=generator)
        latents = torch.empty_like(noise)
        for component, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            own = chosen == component  # one by one: a factor for each row would take n·d² numbers
            latents[own] = (mean + noise[own].double() @ factor.T).to(noise.dtype)
        return latents


def draw_latents(
    n: int, latent_dim: int, *, seed: int, truncation: float = 1.0, mixture: Mixture | None = None
) -> Tensor:
    """Latents (n, latent_dim) float32 on the CPU, which follow from the seed.

    Args:
        truncation: above 0; the factor on z ~ N(0, I) under the prior, and under a mixture on the distance of each
            draw from its component's mean. Below 1 samples are more typical and less varied (Brock et al. 2019 cut
            the tails of the prior off instead).
        mixture: what to draw from; None = the prior.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = sample_prior(n, latent_dim, generator) * truncation
    return noise if mixture is None else mixture.moved(noise, generator)


def fit_mixture(
    networks: AdversarialVAE,
    train: Split,
    *,
    seed: int,
    device: Device,
    num_workers: int = 0,
    components: int = COMPONENTS,
) -> Mixture:
    """Fit a mixture to the aggregate posterior: μ + σ⊙ε of at most FIT_IMAGES training images, drawn by the seed.

    These latents, unlike all that the prior gives, are what the decoder was trained on (Ghosh et al. 2020, "From
    variational to deterministic autoencoders", who fit ten Gaussians of full covariance after the training; pythae's
    GaussianMixtureSampler, too, fits them to latents drawn from the posterior). Networks trained on crops encode the
    centred crop of each image.

    Args:
        components: fewer are used where each would get fewer than two images per latent.

    Raises:
        UserError: there are fewer than two images, or the encoder gives numbers that are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(train), generator=generator)[:FIT_IMAGES].sort().values  # sorted: they may lie on a disk
    noise = sample_prior(len(drawn), networks.latent_dim, generator)

    def compute(images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        mean, logvar = networks.encode(images)
        return {"latent": mean.cpu() + (0.5 * logvar).exp().cpu() * noise[positions]}

    reading: dict[str, Any] = {"batch_size": CHUNK, "device": device, "num_workers": num_workers}
    what = f"encoding {train.name} {train.split}"
    latents = of_all_images(networks, train.subset(drawn), compute, what=what, **reading)["latent"]
    if len(latents) < 2:
        raise UserError(f"sampler=gmm needs two training images or more, and {train.name} has {len(latents)}")
    if not latents.isfinite().all():
        raise UserError("sampler=gmm: the latents of some training images are not finite: train again")
    fitted = fit_gaussian_mixture(latents, components, seed)
    weights, means, covariances = map(torch.from_numpy, (fitted.weights_, fitted.means_, fitted.covariances_))
    logger.info(f"fitted a mixture of {len(weights)} Gaussians to the latents of {len(latents):,} images")
    return Mixture(weights, means, torch.linalg.cholesky(covariances))


def fit_gaussian_mixture(latents: Tensor, components: int, seed: int) -> "GaussianMixture":
    """scikit-learn's mixture of Gaussians of full covariance, fitted to latents (n, d) on the CPU.

    Args:
        components: fewer are used where each would get fewer than two images per latent.
    """
    from sklearn.mixture import GaussianMixture

    n, latent_dim = latents.shape
    values = latents.double().numpy()
    return GaussianMixture(
        min(components, max(1, n // (2 * latent_dim))),
        reg_covar=1e-6 * max(values.var(axis=0).mean(), 1e-6),  # some latents may not vary at all
        random_state=seed,
    ).fit(values)


def save_mixture(path: Path, mixture: Mixture, identity: Mapping[str, str]) -> None:
    """Write the file of a mixture.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as unfinished:
        torch.save({"format": FORMAT, "identity": dict(identity), **vars(mixture)}, unfinished)


def read_mixture(path: Path, identity: Mapping[str, str]) -> Mixture | None:
    """The mixture that a file holds; None = there is no such file, or it is another identity's, or damaged.

    That a file is damaged is said.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or not is_of(content["identity"], identity):
            return None
        mixture = Mixture(*(content[name] for name in ("weights", "means", "factors")))
        k, latent_dim = mixture.means.shape
        if mixture.weights.shape != (k,) or mixture.factors.shape != (k, latent_dim, latent_dim):
            raise ValueError("its shapes differ")
    except Exception as error:  # torch raises many kinds, and a foreign file may hold anything
        logger.warning(f"{path} is damaged, or no mixture file ({type(error).__name__}): the mixture is fitted again")
        return None
    return mixture
