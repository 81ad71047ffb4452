"""The training step as a run plays it at its place: what follows a schedule, and what counts yet."""

from dataclasses import replace

import torch
from torch import Tensor

from advvae import distributed
from advvae.config import Config
from advvae.losses import Objective
from advvae.players import Players
from advvae.recording import make_step
from advvae.schedules import Schedules


class Stepper:
    """Plays the steps of a run.

    Attributes:
        objective, players: what is minimised at present, and by whom.
    """

    def __init__(self, config: Config, players: Players, objective: Objective, device: torch.device) -> None:
        self._config, self._players, self._device = config, players, device
        self._whole_objective = objective
        self._schedules = Schedules(config, device)
        self.objective = objective
        self.players = players
        self._begun: bool | None = None

    def begin(self, epoch: int) -> None:
        """Get ready for an epoch, counted from 0. Before the game starts, the VAE learns alone."""
        config, schedules = self._config, self._schedules
        begun = epoch >= config.adversarial_start
        if begun == self._begun:
            return
        self._begun = begun
        self.objective = replace(
            self._whole_objective if begun else self._whole_objective.without_discriminator(),
            kld_factor=schedules.kld,
            adversarial_factor=schedules.adversarial,
        )
        self.players = self._players if begun else self._players.without_discriminator()
        self._step = make_step(self.players, self.objective, config.precision, self._device, config.compile)

    def renew(self) -> None:
        """Forget a recorded step: it knows the optimisers' old state."""
        self._begun = None

    def move_to(self, epoch: float, minutes: float) -> None:
        """Set what follows a schedule to where the run is: in epochs, with their fraction, and in minutes."""
        if self._schedules.has_any:
            config = self._config
            of_time = distributed.from_first(minutes) / config.max_minutes if config.max_minutes else 0.0
            self._schedules.move_to(epoch, max(epoch / config.n_epochs, of_time), self._players)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """A step of each player, as `recording.Step`."""
        return self._step(*inputs)
