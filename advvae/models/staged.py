"""What networks of stages have in common, whatever a stage is made of."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from advvae.errors import UserError
from advvae.models.convolution import flatten


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm (Wu & He 2018) of 8 groups, or of the most below 8 that divide the width."""
    return nn.GroupNorm(next(groups for groups in range(8, 0, -1) if width % groups == 0), width)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "none": lambda width: nn.Identity(),
}


class StagedEncoder(nn.Module):
    """images (B, C, H, W) in [-1, 1] -> mean and log-variance of q(z given x), each (B, latent_dim).

    Args:
        stages: images -> maps of `n_features` numbers an image.
    """

    def __init__(self, stages: nn.Module, n_features: int, latent_dim: int) -> None:
        super().__init__()
        self.stages = stages
        self.mean = nn.Linear(n_features, latent_dim)
        self.logvar = nn.Linear(n_features, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = flatten(self.stages(images))
        return self.mean(features), self.logvar(features)


class StagedDiscriminator(nn.Module):
    """images (B, C, H, W) in [-1, 1] -> logits (B,), larger = more real.

    Args:
        stages: images -> maps of `n_features` numbers an image.
        spectral_norm: divide each weight by its largest singular value (Miyato et al. 2018).
    """

    def __init__(self, stages: nn.Module, n_features: int, spectral_norm: bool) -> None:
        super().__init__()
        self.stages = stages
        self.logit = nn.Linear(n_features, 1)
        if spectral_norm:
            for layer in [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear)]:
                parametrizations.spectral_norm(layer)

    def features(self, images: Tensor) -> Tensor:
        """The penultimate features (B, F), from which `logit` makes the logit."""
        return flatten(self.stages(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.features(images)).squeeze(1)


def check_options(norm: str, spectral_norm: bool, vae_norm: str = "group") -> None:
    """Refuse options of networks that there are not.

    Raises:
        UserError: an unknown norm, or a spectral_norm that is neither true nor false.
    """
    for name, value in (("norm", norm), ("vae_norm", vae_norm)):
        if value not in NORMS:
            raise UserError(f"model.{name} must be one of {', '.join(NORMS)}, got {value}")
    if not isinstance(spectral_norm, bool):
        raise UserError(f"model.spectral_norm must be true or false, got {spectral_norm}")
