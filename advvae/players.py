"""The players: the networks, what moves their weights, and the average of these."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from advvae.averaging import WeightAverage
from advvae.checkpoint import Checkpoint
from advvae.config import Config
from advvae.models import AdversarialVAE


@dataclass(frozen=True)
class Moving:
    """How the players' weights move.

    Attributes:
        lr: Adam's learning rate of the VAE, and of the discriminator unless `lr_discriminator` is given.
        betas: Adam's, likewise.
        clip_gradient: norm that the gradients of each player are scaled down to; None = they are left as they are.
        ema: decay of the moving average of the weights; None = there is none.
        lr_changes: whether `Players.scale_lr` will be called.
    """

    lr: float
    lr_discriminator: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    betas_discriminator: tuple[float, float] | None = None
    clip_gradient: float | None = None
    ema: float | None = None
    lr_changes: bool = False


def moving(config: Config) -> Moving:
    """As the config says."""
    betas, betas_discriminator = config.betas, config.betas_discriminator
    return Moving(
        config.lr,
        config.lr_discriminator,
        (betas[0], betas[1]),
        (betas_discriminator[0], betas_discriminator[1]) if betas_discriminator else None,
        config.clip_gradient,
        config.ema,
        lr_changes=config.lr_schedule != "constant" or config.lr_warmup > 0,
    )


@dataclass
class Players:
    """The networks and the optimiser of each player; a plain VAE plays alone."""

    networks: AdversarialVAE
    vae_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer | None
    clip_gradient: float | None = None
    average: WeightAverage | None = None
    base_lrs: tuple[float, float] = (0.0, 0.0)

    @property
    def evaluated(self) -> AdversarialVAE:
        """The networks that are validated, drawn and kept for use: of averaged weights, if there is an average."""
        return self.networks if self.average is None else self.average.networks

    @property
    def copies(self) -> list[AdversarialVAE]:
        """The networks that are trained, and their moving average if there is one."""
        return [self.networks, *([] if self.average is None else [self.average.networks])]

    def without_discriminator(self) -> "Players":
        """The VAE alone: the same encoder, decoder, optimiser and average."""
        return replace(self, networks=self.networks.without_discriminator(), discriminator_optimizer=None)

    def scale_lr(self, factor: float) -> None:
        """Set the learning rates to this factor of what they were given as."""
        for optimizer, lr in zip((self.vae_optimizer, self.discriminator_optimizer), self.base_lrs, strict=True):
            for group in optimizer.param_groups if optimizer is not None else ():
                if isinstance(group["lr"], torch.Tensor):  # which a recorded step reads anew
                    group["lr"].fill_(lr * factor)
                else:
                    group["lr"] = lr * factor

    def restore_networks(self, checkpoint: Checkpoint) -> None:
        """Copy a run's weights; an average that it did not have begins with them.

        Raises:
            UserError: they do not fit the networks.
        """
        training = checkpoint.training
        assert training is not None
        replace(checkpoint, parts=training.weights or checkpoint.parts).restore(self.networks)
        if self.average is not None:
            checkpoint.restore(self.average.networks)
            self.average.n_steps.fill_(training.average_steps)

    def restore_optimizers(self, vae_state: dict[str, Any], discriminator_state: dict[str, Any]) -> None:
        """Put the optimisers back to states that their state_dict() gave; settings such as lr stay as they are now."""
        states = ((self.vae_optimizer, vae_state), (self.discriminator_optimizer, discriminator_state))
        for optimizer, state in states:
            if optimizer is not None:
                optimizer.load_state_dict(state)
                for group in optimizer.param_groups:
                    group.update(optimizer.defaults)

    def not_finite(self) -> list[str]:
        """The weights and running statistics in which something is NaN or infinite, by their names."""
        named = {k: v for k, v in self.networks.state_dict().items() if v.is_floating_point()}
        finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).tolist()  # one wait for the device
        return [name for name, is_finite in zip(named, finite, strict=True) if not is_finite]


def make_players(networks: AdversarialVAE, moving: Moving | float, device: torch.device) -> Players:
    """Networks on the device, all of their parameters trainable, and each player with its own Adam.

    Args:
        moving: a number is the learning rate of both.
    """
    if not isinstance(moving, Moving):
        moving = Moving(moving)
    networks.to(device).to(memory_format=torch.channels_last).train().requires_grad_(True)
    lrs = (moving.lr, moving.lr_discriminator or moving.lr)
    betas = (moving.betas, moving.betas_discriminator or moving.betas)
    vae_optimizer = _adam(networks.vae_parameters(), lrs[0], betas[0], moving.lr_changes, device)
    discriminator_optimizer = None
    if networks.discriminator is not None:
        parameters = networks.discriminator_parameters()
        discriminator_optimizer = _adam(parameters, lrs[1], betas[1], moving.lr_changes, device)
    average = WeightAverage(networks, moving.ema) if moving.ema is not None else None
    return Players(networks, vae_optimizer, discriminator_optimizer, moving.clip_gradient, average, lrs)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What it moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _adam(
    parameters: list[nn.Parameter], lr: float, betas: tuple[float, float], lr_changes: bool, device: torch.device
) -> torch.optim.Adam:
    """Adam in one kernel where there is one, and on a GPU without a number that the host would have to know."""
    is_cuda = device.type == "cuda"
    rate = torch.tensor(lr, device=device) if is_cuda and lr_changes else lr
    return torch.optim.Adam(parameters, rate, betas, fused=is_cuda or device.type == "cpu", capturable=is_cuda)
