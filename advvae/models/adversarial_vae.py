"""The three networks of the game, whatever they are made of."""

from typing import Any

import torch
from torch import Tensor, nn

from advvae.errors import UserError


class AdversarialVAE(nn.Module):
    """An encoder, a decoder and a discriminator that were trained, or are to be trained, together.

    A part that is not there is None: the discriminator of a plain VAE, or encoder and decoder where only a
    discriminator was found.

    Args:
        encoder: images (B, C, H, W) in [-1, 1] -> mean and log-variance of q(z given x), each (B, latent_dim).
        decoder: z (B, latent_dim) -> images (B, C, H, W) in [-1, 1].
        discriminator: images (B, C, H, W) in [-1, 1] -> logits (B,), larger = more real.
        latent_dim: size of z; 0 without an encoder and decoder.
    """

    def __init__(
        self, encoder: nn.Module | None, decoder: nn.Module | None, discriminator: nn.Module | None, latent_dim: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.discriminator = discriminator
        self.latent_dim = latent_dim

    @property
    def has_vae(self) -> bool:
        """Whether images can be reconstructed and sampled."""
        return self.encoder is not None and self.decoder is not None

    def without_discriminator(self) -> "AdversarialVAE":
        """The same encoder and decoder, alone."""
        return AdversarialVAE(self.encoder, self.decoder, None, self.latent_dim)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z given x), each (B, latent_dim)."""
        assert self.encoder is not None
        mean, logvar = self.encoder(images)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] of latents (B, latent_dim)."""
        assert self.decoder is not None
        return self.decoder(z)

    def discriminate(self, images: Tensor) -> Tensor:
        """Logits (B,), larger = more real."""
        assert self.discriminator is not None
        return self.discriminator(images)

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """D's penultimate features (B, F), and the logits (B,) that it makes from them.

        Raises:
            UserError: the discriminator has no features() and logit().
        """
        discriminator: Any = self.discriminator
        if not all(hasattr(discriminator, name) for name in ("features", "logit")):
            raise UserError("feature_weight needs a discriminator with features() and logit(): set feature_weight=0")
        features = discriminator.features(images)
        return features, discriminator.logit(features).squeeze(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """decoder(μ): the reconstruction at the posterior mean, free of noise."""
        return self.decode(self.encode(images)[0])

    def vae_parameters(self) -> list[nn.Parameter]:
        """What the VAE's optimiser moves: encoder and decoder."""
        assert self.encoder is not None
        assert self.decoder is not None
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """What the discriminator's optimiser moves."""
        assert self.discriminator is not None
        return list(self.discriminator.parameters())


def sample_prior(n: int, latent_dim: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """z ~ N(0, I), (n, latent_dim). Drawn on the CPU, so that a seed gives the same latents on every device."""
    is_cuda = torch.device(device).type == "cuda"
    latents = torch.randn(n, latent_dim, generator=generator, pin_memory=is_cuda)  # else the host waits for the copy
    return latents.to(device, non_blocking=is_cuda)
