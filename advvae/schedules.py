"""What changes as a training goes on: the weight of the KL and of the adversarial terms, and the learning rate.

Positions are counted in epochs from the start of the run, 2.5 being the middle of the third.
"""

import math

import torch
from torch import Tensor

from advvae.config import Config
from advvae.players import Players

CYCLE_RISES = 0.5  # the share of a cycle in which the KL's weight rises (Fu et al. 2019)


class Schedules:
    """The factors of a run, each None where it is 1 all along.

    Attributes:
        kld, adversarial: of the weights of the KL, and of all terms of the VAE that look at D: tensors () on the
            device, which a recorded step reads anew.
        has_lr, has_any: whether the learning rates change, or anything does.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        self.kld = _one(device) if config.kld_schedule != "constant" else None
        self.adversarial = _one(device) if config.adversarial_ramp > 0 else None
        self.has_lr = config.lr_schedule != "constant" or config.lr_warmup > 0
        self.has_any = self.has_lr or self.kld is not None or self.adversarial is not None

    def move_to(self, epoch: float, progress: float, players: Players) -> None:
        """Set the factors to where the run is.

        Args:
            progress: of the whole run, from 0 to 1.
        """
        config = self._config
        if self.kld is not None:
            self.kld.fill_(kld_factor(config.kld_schedule, epoch / config.kld_epochs))
        if self.adversarial is not None:
            self.adversarial.fill_(ramp(epoch - config.adversarial_start, config.adversarial_ramp))
        if self.has_lr:
            players.scale_lr(lr_factor(config.lr_schedule, progress) * ramp(epoch, config.lr_warmup))


def kld_factor(schedule: str, cycles: float) -> float:
    """Linear: rises from 0 to 1 once (Bowman et al. 2016). Cyclic: in the first half of each cycle (Fu et al. 2019).

    Args:
        cycles: since the start, in units of `kld_epochs`.
    """
    if schedule == "cyclic":
        return min(1.0, cycles % 1 / CYCLE_RISES)
    return min(1.0, cycles)


def lr_factor(schedule: str, progress: float) -> float:
    """Cosine: from 1 at the start to 0 at the end (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) if schedule == "cosine" else 1.0


def ramp(epoch: float, length: float) -> float:
    """From 0 at epoch 0 to 1 at `length`; 1 at once where that is 0."""
    return min(1.0, max(0.0, epoch) / length) if length > 0 else 1.0


def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)
