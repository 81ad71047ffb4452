"""Small networks and settings that several tests share."""

from collections.abc import Callable

import torch
from torch import Tensor

from advvae.losses import Objective, ReconstructionLoss, mean_squared_error
from advvae.models import AdversarialVAE, conv_networks


def small_networks(channels: int = 1, size: int = 8, latent_dim: int = 3, seed: int = 0) -> AdversarialVAE:
    """`model=conv` of two narrow stages."""
    torch.manual_seed(seed)
    return conv_networks(channels, size, latent_dim, [4, 6])


def objective(
    reconstruction_loss: ReconstructionLoss = mean_squared_error,
    kld_weight: float = 1e-4,
    recon_weight: float = 0.5,
    gen_weight: float = 0.25,
) -> Objective:
    return Objective(reconstruction_loss, kld_weight, recon_weight, gen_weight)


def real_images(n: int = 6, channels: int = 1, size: int = 8, seed: int = 1) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def snapshot(networks: torch.nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, copied."""
    return {name: tensor.clone() for name, tensor in networks.state_dict().items()}


def changed(before: dict[str, Tensor], networks: torch.nn.Module, where: Callable[[str], bool]) -> list[str]:
    """The names, among those that `where` picks, whose tensor is no longer what it was."""
    after = networks.state_dict()
    return [name for name in before if where(name) and not torch.equal(before[name], after[name])]
