"""A training step on a GPU, recorded once as a CUDA graph and then replayed: one launch in place of hundreds.

Networks of this kind are so small that a GPU is done with a kernel before the host has launched the next.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from advvae.distributed import n_ranks
from advvae.game import play_step
from advvae.losses import Objective
from advvae.players import Players

logger = logging.getLogger(__name__)

WARM_UP = 3  # steps that are played before one is recorded: libraries choose and load their kernels in them

Step = Callable[..., Tensor]
"""(images (B, C, H, W); ε and z, each (B, latent_dim), for each step of the discriminator; negatives (B, C, H, W) where
there are any) -> game.MEASURED (10,)."""


def make_step(players: Players, objective: Objective, precision: str, device: torch.device, compile: str) -> Step:
    """One step of each player. On a CUDA device and with compile=auto, it is recorded when it has warmed up.

    Not with several ranks: whether their sums can be recorded depends on the versions of NCCL and its driver.
    """

    def step(images: Tensor, *drawn: Tensor) -> Tensor:
        n_noise = len(drawn) // 2 * 2  # which comes in pairs; what is left is negatives
        return play_step(players, objective, images, drawn[:n_noise], precision, *drawn[n_noise:])

    if device.type != "cuda" or compile == "none" or n_ranks() > 1:
        return step
    return RecordedStep(step, players.networks, device)


class RecordedStep:
    """A step that is replayed for all batches of the first one's shape, and played as it is for others.

    Recording runs nothing, and replaying runs the same kernels on the same memory: inputs are copied to where the
    recorded ones were, and parameters, optimiser states and statistics stay where they are. The step must not wait for
    the device; one that does (a loss of the user's own may) is not recorded, which is said.
    """

    def __init__(self, step: Step, networks: nn.Module, device: torch.device) -> None:
        self._step = step
        self._networks = networks
        self._device = device
        self._shapes: list[torch.Size] = []
        self._n_played = 0
        self._recordable = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._terms = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = [tensor.shape for tensor in inputs]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes or not self._recordable:
            return self._step(*inputs)
        if self._graph is None:
            if self._n_played < WARM_UP:
                return self._play(inputs)
            self._record(inputs)
            if self._graph is None:
                return self._step(*inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._terms.clone()  # the next replay writes where these stand

    def _play(self, inputs: Sequence[Tensor]) -> Tensor:
        """On a stream of its own, as the recording will be."""
        stream, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            terms = self._step(*inputs)
        current.wait_stream(stream)
        self._n_played += 1
        return terms

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._terms = self._step(*self._inputs)
        except RuntimeError as error:
            self._recordable = False
            self._networks.zero_grad()  # what was recorded of gradients was never computed
            reason = str(error).splitlines()[0]
            logger.warning(f"the step cannot be recorded as a CUDA graph, and runs kernel by kernel: {reason}")
            return
        self._graph = graph
