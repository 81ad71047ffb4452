"""`model=resnet`: residual stages with group normalisation and bilinear resampling, for any side of 8 px or more.

A stage halves the map, rounding up, as in `model=conv`; the decoder mirrors the stages. Images are sharper where no
stride leaves its grid behind, and dearer: each stage convolves its map before it is made smaller, and after it was made
larger.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from advvae.models.adversarial_vae import AdversarialVAE
from advvae.models.convolution import Conv2d
from advvae.models.staged import NORMS, StagedDiscriminator, StagedEncoder, check_options
from advvae.shapes import stage_sizes


def resnet_networks(
    channels: int,
    size: int,
    latent_dim: int,
    hidden_dims: Sequence[int],
    norm: str = "none",
    vae_norm: str = "group",
    spectral_norm: bool = False,
) -> AdversarialVAE:
    """The three networks of `model=resnet` for images (B, channels, size, size).

    Args:
        hidden_dims: channels per stage, of both players.
        norm, vae_norm: of the discriminator's stages, and of encoder and decoder: batch, group or none.
        spectral_norm: divide each weight of the discriminator by its largest singular value (Miyato et al. 2018).

    Raises:
        UserError: an unknown norm, or a spectral_norm that is neither true nor false.
    """
    check_options(norm, spectral_norm, vae_norm)
    return AdversarialVAE(
        Encoder(channels, size, latent_dim, hidden_dims, vae_norm),
        Decoder(channels, size, latent_dim, hidden_dims, vae_norm),
        Discriminator(channels, size, hidden_dims, norm, spectral_norm),
        latent_dim,
    )


class Residual(nn.Module):
    """(B, width, h, w) -> (B, new_width, side, side): the map, resampled, and two convolutions that are added to it.

    The second begins at 0, so that the stage does (Goyal et al. 2017): a deep stack is well-behaved from the start.
    """

    def __init__(self, width: int, new_width: int, side: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.side = side
        self.norms = nn.ModuleList([norm(width), norm(new_width)])
        self.convolutions = nn.ModuleList(
            [Conv2d(width, new_width, kernel_size=3, padding=1), Conv2d(new_width, new_width, kernel_size=3, padding=1)]
        )
        self.shortcut = Conv2d(width, new_width, kernel_size=1) if width != new_width else nn.Identity()
        for parameter in self.convolutions[1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        first, second = self.convolutions
        change = silu(self.norms[0](maps))
        if self.side > maps.shape[-1]:
            maps, change = (_resampled(tensor, self.side) for tensor in (maps, change))
        change = second(silu(self.norms[1](first(change))))
        maps = self.shortcut(maps) + change
        return _resampled(maps, self.side) if self.side < maps.shape[-1] else maps


class Encoder(StagedEncoder):
    """images (B, C, H, W) in [-1, 1] -> mean and log-variance of q(z given x), each (B, latent_dim)."""

    def __init__(
        self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int], norm: str = "group"
    ) -> None:
        super().__init__(*_down(channels, size, hidden_dims, NORMS[norm]), latent_dim)


class Decoder(nn.Module):
    """z (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""

    def __init__(
        self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int], norm: str = "group"
    ) -> None:
        super().__init__()
        sizes, widths = stage_sizes(size, len(hidden_dims))[::-1], [*reversed(hidden_dims), hidden_dims[0]]
        normalised = NORMS[norm]
        self.input = nn.Linear(latent_dim, widths[0] * sizes[0] ** 2)
        self.unflatten = nn.Unflatten(1, (widths[0], sizes[0], sizes[0]))
        self.stages = nn.Sequential(
            *(Residual(widths[i], widths[i + 1], sizes[i + 1], normalised) for i in range(len(hidden_dims)))
        )
        self.output = nn.Sequential(
            normalised(widths[-1]), nn.SiLU(), Conv2d(widths[-1], channels, kernel_size=3, padding=1), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.stages(self.unflatten(self.input(z))))


class Discriminator(StagedDiscriminator):
    """images (B, C, H, W) in [-1, 1] -> logits (B,), larger = more real."""

    def __init__(
        self, channels: int, size: int, hidden_dims: Sequence[int], norm: str = "none", spectral_norm: bool = False
    ) -> None:
        super().__init__(*_down(channels, size, hidden_dims, NORMS[norm]), spectral_norm)


def _down(
    channels: int, size: int, hidden_dims: Sequence[int], norm: Callable[[int], nn.Module]
) -> tuple[nn.Sequential, int]:
    """The stages that make a map small, and how many features they end in."""
    sizes, widths = stage_sizes(size, len(hidden_dims)), [hidden_dims[0], *hidden_dims]
    stages = [Residual(widths[i], widths[i + 1], sizes[i + 1], norm) for i in range(len(hidden_dims))]
    first = Conv2d(channels, widths[0], kernel_size=3, padding=1)
    return nn.Sequential(first, *stages, norm(widths[-1]), nn.SiLU()), widths[-1] * sizes[-1] ** 2


def _resampled(maps: Tensor, side: int) -> Tensor:
    """Bilinearly, each pixel of a smaller map being a mean over those it stands for."""
    smaller = side < maps.shape[-1]
    resampled = interpolate(maps, (side, side), mode="bilinear", antialias=smaller)
    return resampled.contiguous(memory_format=torch.channels_last)
