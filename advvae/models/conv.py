"""`model=conv`: strided 3×3 convolutions with batch normalisation, for any side of 8 px or more.

A stage halves the map, rounding up; the decoder mirrors the stages through output padding, so that no image is
resized to a power of two.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from advvae.models.adversarial_vae import AdversarialVAE
from advvae.shapes import stage_sizes

NEGATIVE_SLOPE = 0.01


def conv_networks(channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int]) -> AdversarialVAE:
    """The three networks of `model=conv` for images (B, channels, size, size).

    Args:
        hidden_dims: channels per stride-2 stage, of both players.
    """
    return AdversarialVAE(
        Encoder(channels, size, latent_dim, hidden_dims),
        Decoder(channels, size, latent_dim, hidden_dims),
        Discriminator(channels, size, hidden_dims),
        latent_dim,
    )


class Encoder(nn.Module):
    """images (B, C, H, W) in [-1, 1] -> mean and log-variance of q(z given x), each (B, latent_dim)."""

    def __init__(self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.stages = _down(channels, hidden_dims)
        n_features = hidden_dims[-1] * stage_sizes(size, len(hidden_dims))[-1] ** 2
        self.mean = nn.Linear(n_features, latent_dim)
        self.logvar = nn.Linear(n_features, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stages(images).flatten(1)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """z (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""

    def __init__(self, channels: int, size: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        sizes = stage_sizes(size, len(hidden_dims))[::-1]
        widths = [*reversed(hidden_dims), hidden_dims[0]]  # the last stage keeps its width; a convolution ends it
        self.input = nn.Linear(latent_dim, widths[0] * sizes[0] ** 2)
        self.unflatten = nn.Unflatten(1, (widths[0], sizes[0], sizes[0]))
        self.stages = nn.Sequential(
            *(
                _stage(
                    nn.ConvTranspose2d(
                        widths[i],
                        widths[i + 1],
                        kernel_size=3,
                        stride=2,
                        padding=1,
                        output_padding=sizes[i + 1] - (2 * sizes[i] - 1),
                    ),
                    widths[i + 1],
                )
                for i in range(len(hidden_dims))
            )
        )
        self.output = nn.Sequential(nn.Conv2d(widths[-1], channels, kernel_size=3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.stages(self.unflatten(self.input(z))))


class Discriminator(nn.Module):
    """images (B, C, H, W) in [-1, 1] -> logits (B,), larger = more real."""

    def __init__(self, channels: int, size: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.stages = _down(channels, hidden_dims)
        self.logit = nn.Linear(hidden_dims[-1] * stage_sizes(size, len(hidden_dims))[-1] ** 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.stages(images).flatten(1)).squeeze(1)


def _down(channels: int, hidden_dims: Sequence[int]) -> nn.Sequential:
    widths = [channels, *hidden_dims]
    return nn.Sequential(
        *(
            _stage(nn.Conv2d(widths[i], widths[i + 1], kernel_size=3, stride=2, padding=1), widths[i + 1])
            for i in range(len(hidden_dims))
        )
    )


def _stage(convolution: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
