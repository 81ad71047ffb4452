"""Looking into the steps of a training that runs in the test's own process."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from advvae import stepping
from advvae.recording import Step, make_step

Watch = Callable[[int, Any, tuple[Any, ...], torch.Tensor], torch.Tensor]
"""(number of the step, from 1; players; what the step took; what it has measured) -> what it is to have measured"""


def watch_steps(patch: pytest.MonkeyPatch, watch: Watch) -> list[int]:
    """Call `watch` at the end of each step that rank 0 plays from now on; returns their numbers, as they come."""
    numbers: list[int] = []

    def make_watched(players: Any, *settings: Any) -> Step:
        step = make_step(players, *settings)

        def played(*inputs: Any) -> torch.Tensor:
            measured = step(*inputs)
            numbers.append(len(numbers) + 1)
            return watch(numbers[-1], players, inputs, measured)

        return played

    patch.setattr(stepping, "make_step", make_watched)
    return numbers


def terminate_in_step(patch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Send this process SIGTERM, as a scheduler does, while it plays this step."""

    def watch(step: int, players: Any, inputs: tuple[Any, ...], measured: torch.Tensor) -> torch.Tensor:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured

    return watch_steps(patch, watch)
