"""`model=conv`: strided 3×3 convolutions with batch normalisation, for any side of 8 px or more.

A stage halves the map, rounding up; the decoder mirrors the stages through output padding, so that no image is
resized to a power of two.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from advvae.models.adversarial_vae import AdversarialVAE
from advvae.models.convolution import Conv2d, ConvTranspose2d
from advvae.models.staged import NORMS, StagedDiscriminator, StagedEncoder, check_options
from advvae.shapes import stage_sizes

NEGATIVE_SLOPE = 0.01


def conv_networks(
    channels: int,
    size: int,
    latent_dim: int,
    hidden_dims: Sequence[int],
    norm: str = "batch",
    spectral_norm: bool = False,
    vae_norm: str = "batch",
) -> AdversarialVAE:
    """The three networks of `model=conv` for images (B, channels, size, size).

    Args:
        hidden_dims: channels per stride-2 stage, of both players.
        norm: of the discriminator's stages: batch, group or none.
        spectral_norm: divide each weight of the discriminator by its largest singular value (Miyato et al. 2018).
        vae_norm: of the stages of encoder and decoder: batch, group or none. The decoder's running statistics are those
            of reconstructions and samples together, which fits neither where latents of images are unlike the prior.

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


class Encoder(StagedEncoder):
    """images (B, C, H, W) in [-1, 1] -> mean and log-variance of q(z given x), each (B, latent_dim)."""

    def __init__(
        self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int], norm: str = "batch"
    ) -> None:
        super().__init__(_down(channels, hidden_dims, NORMS[norm]), _n_features(size, hidden_dims), latent_dim)


class Decoder(nn.Module):
    """z (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""

    def __init__(
        self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int], norm: str = "batch"
    ) -> None:
        super().__init__()
        sizes = stage_sizes(size, len(hidden_dims))[::-1]
        widths = [*reversed(hidden_dims), hidden_dims[0]]  # the last stage keeps its width; a convolution ends it
        self.input = nn.Linear(latent_dim, widths[0] * sizes[0] ** 2)
        self.unflatten = nn.Unflatten(1, (widths[0], sizes[0], sizes[0]))
        self.stages = nn.Sequential(
            *(
                _stage(
                    ConvTranspose2d(
                        widths[i],
                        widths[i + 1],
                        kernel_size=3,
                        stride=2,
                        padding=1,
                        output_padding=sizes[i + 1] - (2 * sizes[i] - 1),
                    ),
                    NORMS[norm](widths[i + 1]),
                )
                for i in range(len(hidden_dims))
            )
        )
        self.output = nn.Sequential(Conv2d(widths[-1], channels, kernel_size=3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.stages(self.unflatten(self.input(z))))


class Discriminator(StagedDiscriminator):
    """images (B, C, H, W) in [-1, 1] -> logits (B,), larger = more real."""

    def __init__(
        self,
        channels: int,
        size: int,
        hidden_dims: Sequence[int],
        norm: str = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(_down(channels, hidden_dims, NORMS[norm]), _n_features(size, hidden_dims), spectral_norm)


def _n_features(size: int, hidden_dims: Sequence[int]) -> int:
    return hidden_dims[-1] * stage_sizes(size, len(hidden_dims))[-1] ** 2


def _down(channels: int, hidden_dims: Sequence[int], norm: Callable[[int], nn.Module]) -> nn.Sequential:
    widths = [channels, *hidden_dims]
    return nn.Sequential(
        *(
            _stage(Conv2d(widths[i], widths[i + 1], kernel_size=3, stride=2, padding=1), norm(widths[i + 1]))
            for i in range(len(hidden_dims))
        )
    )


def _stage(convolution: nn.Module, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, norm, nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
