"""Scores from the VAE: its errors, its bounds of the likelihood, and corrections of what these get wrong.

The bounds take the decoder as a Gaussian N(x̂, s²) of independent values, with one s² for all: its maximum-likelihood
estimate, the mean squared error of the training images (Rybkin et al. 2021, σ-VAE).
"""

import math
from copy import deepcopy

import torch
from torch import Tensor

from advvae.losses import mean_squared_error, ssim_loss
from advvae.models.adversarial_vae import AdversarialVAE, sample_prior
from advvae.outlier.evidence import VAE, Evidence, FittedScore, needs
from advvae.outlier.fitting import positive
from advvae.progress import watched

BIN = 2 / 255  # width of a value of an 8-bit image in [-1, 1]


@needs(VAE)
def recon_mse(evidence: Evidence) -> Tensor:
    """(x - x̂)², mean over channels and pixels in [-1, 1], with x̂ = decoder(μ) (An & Cho 2015)."""
    return evidence.squared_error


@needs(VAE)
def recon_l1(evidence: Evidence) -> Tensor:
    """|x - x̂|, mean over channels and pixels in [-1, 1], with x̂ = decoder(μ)."""
    return (evidence.images - evidence.reconstruction).abs().flatten(1).mean(1)


@needs(VAE)
def recon_nmse(evidence: Evidence) -> Tensor:
    """‖x - x̂‖² / ‖x - mean(x)‖², the share of the image's own variance that x̂ = decoder(μ) leaves unexplained, 1 - R².

    The plain error is small wherever there is little to reconstruct, whether that little is known or not.
    """
    variance = evidence.images.flatten(1).var(1, correction=0)
    return evidence.squared_error / variance.clamp(min=BIN**2 / 12)  # of a constant image: what rounding alone leaves


@needs(VAE)
def recon_ssim(evidence: Evidence) -> Tensor:
    """1 - SSIM(x, x̂), with x̂ = decoder(μ) (Wang et al. 2004; for anomalies Bergmann et al. 2019)."""
    return ssim_loss(evidence.images, evidence.reconstruction)


@needs(VAE)
def kld(evidence: Evidence) -> Tensor:
    """KL(q(z given x) to N(0, I)) in nats (Kingma & Welling 2014, appendix B)."""
    return evidence.kl


@needs(VAE)
def loss(evidence: Evidence) -> Tensor:
    """recon(x, x̂) + kld_weight·KL + recon_weight·BCE(D(x̂), 1): the VAE's loss, with x̂ = decoder(μ) free of noise.

    The last term is there where the network was trained with it and its discriminator was found.
    """
    objective = evidence.objective
    values = objective.reconstruction_loss(evidence.images, evidence.reconstruction)
    values = values + objective.kld_weight * evidence.kl
    if objective.recon_weight > 0 and evidence.networks.discriminator is not None:
        logits = [evidence.reconstruction_logit, *([evidence.logit] if objective.adversarial.is_relative else [])]
        values = values + objective.recon_weight * objective.adversarial.fool(*logits)
    return values


@needs(VAE)
class Elbo(FittedScore):
    """-ELBO = KL + D/2·log(2π s²) + ‖x - x̂‖² / (2 s²) in nats, of the D values of an image (Kingma & Welling 2014).

    The decoder is a Gaussian N(x̂, s²). Its scale is the maximum-likelihood estimate s² = ‖x - x̂‖² / D, mean over the
    training images (state `variance`). The expectation over q(z given x) is taken at its mean: x̂ = decoder(μ).
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, 3) float64 on the CPU: mean squared error, KL, D."""
        n_values = torch.full_like(evidence.kl, evidence.images[0].numel())
        return torch.stack([evidence.squared_error, evidence.kl, n_values], 1).cpu().double()

    def fit(self, statistics: Tensor, seed: int) -> None:
        self.state = {"variance": decoder_variance(statistics[:, 0])}

    def measure(self, statistics: Tensor) -> Tensor:
        squared_error, kl, n_values = statistics.T[:3]
        return kl - n_values * log_density(squared_error, self.state["variance"])


def decoder_variance(squared_error: Tensor) -> Tensor:
    """s², (), from the mean squared errors (N,) of images; no less than what rounding to 8 bits alone leaves."""
    return squared_error.double().mean().clamp(min=BIN**2 / 12)


def log_density(squared_error: Tensor, variance: Tensor) -> Tensor:
    """log N(x given x̂, s²) in nats, mean over an image's values, of its mean squared error."""
    return -0.5 * (torch.log(2 * math.pi * variance) + squared_error / variance)


class Typicality(Elbo):
    """|-ELBO - m|, with m the mean of the training images' -ELBO: too likely is as strange as too unlikely.

    One image's form of the test for typicality (Nalisnick et al. 2019).
    """

    def fit(self, statistics: Tensor, seed: int) -> None:
        super().fit(statistics, seed)
        self.state["mean"] = super().measure(statistics).mean()

    def measure(self, statistics: Tensor) -> Tensor:
        return (super().measure(statistics) - self.state["mean"]).abs()


class InputComplexity(Elbo):
    """-log₂ p(x) - L(x) in bits: the model's code length against that of a lossless codec (Serrà et al. 2020).

    p(x) is the chance of the 8-bit image: exp(ELBO) times the width of a bin, 2/255, for each value. L(x) is 8 times
    the bytes of the image as a PNG file.
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, 4) float64 on the CPU: those of Elbo, then bytes."""
        return torch.cat([super().statistics(evidence), evidence.png_bytes[:, None]], 1)

    def measure(self, statistics: Tensor) -> Tensor:
        n_values, n_bytes = statistics[:, 2], statistics[:, 3]
        nats = super().measure(statistics) - n_values * math.log(BIN)
        return nats / math.log(2) - 8 * n_bytes


class NoisyBound(FittedScore):
    """What looks at the likelihood around μ: at noise vectors drawn once, from the seed, and shared by all images."""

    def __init__(self, k: int) -> None:
        self.k = positive("k", k)

    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, 1 + latent_dim): mean squared error, then μ, which tells how long the noise vectors must be."""
        return torch.cat([evidence.squared_error[:, None], evidence.mean], 1)

    def fit(self, statistics: Tensor, seed: int) -> None:
        noise = sample_prior(self.k, statistics.shape[1] - 1, torch.Generator().manual_seed(seed))
        self.state = {"variance": decoder_variance(statistics[:, 0]), "noise": noise}


@needs(VAE)
class Iwae(NoisyBound):
    """-log 1/k Σᵢ p(x given zᵢ) p(zᵢ) / q(zᵢ given x) in nats, zᵢ = μ + σ⊙εᵢ (Burda et al. 2016).

    The decoder is that of Elbo.

    Args:
        k: noise vectors ε.
    """

    def __init__(self, k: int = 16) -> None:
        super().__init__(k)

    def __call__(self, evidence: Evidence) -> Tensor:
        state, posterior = self.state_like(evidence.images), (evidence.mean, evidence.logvar)
        log_ratios = [
            log_importance(evidence.networks, evidence.images, posterior, noise, state["variance"])
            for noise in state["noise"]  # one by one: k times as many images at once may not fit the memory
        ]
        return math.log(self.k) - torch.stack(log_ratios).logsumexp(0)


@needs(VAE)
class LikelihoodRegret(NoisyBound):
    """How much the ELBO of an image gains, in nats, when the encoder is trained on it alone (Xiao et al. 2020).

    A copy of the encoder takes a few steps of Adam, the decoder stays. The ELBO, of the decoder of Elbo, is the mean
    over noise vectors that are the same before and after.

    Args:
        steps: of Adam, for every image.
        lr: its learning rate.
        k: noise vectors.
    """

    def __init__(self, steps: int = 5, lr: float = 3e-4, k: int = 4) -> None:
        super().__init__(k)
        self.steps = positive("steps", steps)
        self.lr = lr

    def __call__(self, evidence: Evidence) -> Tensor:
        images = watched(evidence.images.split(1), "likelihood regret", len(evidence.images))
        return torch.cat([self._regret(evidence.networks, image) for image in images])

    @torch.enable_grad()
    def _regret(self, networks: AdversarialVAE, image: Tensor) -> Tensor:
        """The regret (1,) of one image (1, C, H, W)."""
        state, encoder = self.state_like(image), deepcopy(networks.encoder)
        assert encoder is not None
        parameters = list(encoder.requires_grad_().parameters())
        adam = torch.optim.Adam(parameters, self.lr)

        def elbo() -> Tensor:
            return log_importance(networks, image, encoder(image), state["noise"], state["variance"]).mean(
                0, keepdim=True
            )

        before = elbo().detach()
        for _ in range(self.steps):
            adam.zero_grad()
            (-elbo()).backward(inputs=parameters)  # of no other network, though the gradient goes through the decoder
            adam.step()
        return elbo().detach() - before


def log_importance(
    networks: AdversarialVAE, images: Tensor, posterior: tuple[Tensor, Tensor], noise: Tensor, variance: Tensor
) -> Tensor:
    """log p(x given z) p(z) / q(z given x) in nats at z = μ + σ⊙ε, whose mean over ε is the ELBO.

    Args:
        posterior: mean and log-variance of q(z given x).
        noise: ε, one vector (latent_dim,) for all images (B, C, H, W), or several (B, latent_dim) for a single one.
        variance: s² of the decoder, ().

    Returns:
        (B,).
    """
    mean, logvar = posterior
    z = mean + (0.5 * logvar).exp() * noise
    log_likelihood = images[0].numel() * log_density(mean_squared_error(images, networks.decode(z)), variance)
    return log_likelihood + 0.5 * (noise.square() + logvar - z.square()).sum(1)
