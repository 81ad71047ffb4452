"""`ema`: a moving average of the weights, which is less noisy than the weights of any one step."""

from copy import deepcopy
from typing import Any

import torch

from advvae.models import AdversarialVAE

STATISTICS = ("running_mean", "running_var")  # of a batch norm, which are averaged as the weights are


class WeightAverage:
    """Exponential moving average of networks under training: a ← d·a + (1 - d)·w after each step.

    d = min(decay, (1 + n) / (10 + n)) in the n-th step, from 0, so that the first weights, which were never trained,
    are soon forgotten. Running statistics of batch norms are averaged too. What else is not a weight (counters, the
    vectors of a spectral norm) is taken over as it is.

    Attributes:
        networks: with the averaged weights, which no optimiser moves.
        n_steps: that it has followed, () on the device.
    """

    def __init__(self, networks: AdversarialVAE, decay: float) -> None:
        self.networks = deepcopy(networks).requires_grad_(False)
        self.n_steps = torch.zeros((), device=next(networks.parameters()).device)
        self._decay = decay
        self._pairs = self._averaged(networks), self._averaged(self.networks)
        self._copied = self._others(networks), self._others(self.networks)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the networks by a step."""
        weights, averages = self._pairs
        new = (9 / (10 + self.n_steps)).clamp_min(1 - self._decay)
        torch._foreach_lerp_(averages, weights, [new] * len(weights))
        self.n_steps += 1
        for theirs, own in zip(*self._copied, strict=True):
            own.copy_(theirs)

    @staticmethod
    def _averaged(networks: AdversarialVAE) -> list[torch.Tensor]:
        statistics = [buffer for name, buffer in networks.named_buffers() if name.endswith(STATISTICS)]
        return [*(parameter.detach() for parameter in networks.parameters()), *statistics]

    @staticmethod
    def _others(networks: AdversarialVAE) -> list[Any]:
        return [buffer for name, buffer in networks.named_buffers() if not name.endswith(STATISTICS)]
