"""A step as a CUDA graph: on the CPU with a stand-in for CUDA's part, and with it where there is a GPU."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advvae.game import draw_noise
from advvae.players import make_players
from advvae.recording import WARM_UP, RecordedStep, make_step
from tests.networks import objective, real_images, small_networks

CPU = torch.device("cpu")


class Recorder:
    """Stands in for CUDA: what is run while it records is run again, on the same tensors, at each replay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, networks: nn.Module | None = None) -> None:
        self.played: list[list[float]] = []
        self.n_recorded = 0
        self.error: Exception | None = None
        self._recording = False
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self)
        monkeypatch.setattr(torch.cuda, "stream", nullcontext)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        self.step = RecordedStep(self.double, networks or nn.Identity(), CPU)

    def double(self, *inputs: Tensor) -> Tensor:
        if self._recording:
            if self.error:
                raise self.error
            self._inputs, self._terms = inputs, torch.zeros(len(inputs))
            return self._terms
        self.played.append([float(tensor.sum()) for tensor in inputs])
        return torch.stack([2 * tensor.sum() for tensor in inputs])

    @contextmanager
    def graph(self, _: object) -> Iterator[None]:
        self._recording, self.n_recorded = True, self.n_recorded + 1
        try:
            yield
        finally:
            self._recording = False

    def wait_stream(self, _: object) -> None:
        pass

    def replay(self) -> None:
        self._terms.copy_(torch.stack([2 * tensor.sum() for tensor in self._inputs]))


def batches(n: int, size: int = 2) -> list[Tensor]:
    return [torch.full((size, 1), float(number)) for number in range(n)]


def test_each_batch_is_played_once_recorded_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    terms = [recorder.step(batch, batch + 1) for batch in batches(WARM_UP + 3)]
    assert recorder.n_recorded == 1
    assert len(recorder.played) == WARM_UP
    assert [t.tolist() for t in terms] == [[4.0 * n, 4.0 * n + 4] for n in range(WARM_UP + 3)]  # each kept


def test_a_batch_of_another_shape_is_played_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    for batch in batches(WARM_UP + 1):
        recorder.step(batch)
    (last,) = batches(1, size=3)
    assert recorder.step(last + 1).tolist() == [6.0]
    assert recorder.played[-1] == [3.0]
    recorder.step(*batches(1))
    assert recorder.n_recorded == 1


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    networks = nn.Linear(1, 1)
    recorder = Recorder(monkeypatch, networks)
    recorder.error = RuntimeError("operation not permitted when stream is capturing\nmore")
    networks.weight.grad = torch.ones(1, 1)  # as if it had come so far
    with caplog.at_level(logging.WARNING):
        terms = [recorder.step(batch).tolist() for batch in batches(WARM_UP + 2)]
    assert terms == [[4.0 * n] for n in range(WARM_UP + 2)]
    assert recorder.n_recorded == 1
    assert networks.weight.grad is None
    (line,) = caplog.messages
    assert line.endswith("kernel by kernel: operation not permitted when stream is capturing")


@pytest.mark.parametrize(("device", "compile"), [("cpu", "auto"), ("cuda", "none")])
def test_nothing_is_recorded_unasked(device: str, compile: str) -> None:
    step = make_step(make_players(small_networks(), 1e-3, CPU), objective(), "32", torch.device(device), compile)
    assert not isinstance(step, RecordedStep)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_replayed_steps_give_the_losses_of_played_ones(precision: str) -> None:
    device, losses = torch.device("cuda"), []
    for compile in ("none", "auto"):
        players = make_players(small_networks(), 1e-3, device)
        step: Any = make_step(players, objective(), precision, device, compile)
        generator = torch.Generator().manual_seed(0)
        batches = [real_images(n=6 if number % 4 else 4, seed=number).to(device) for number in range(1, 12)]
        losses.append(torch.stack([step(b, *draw_noise(len(b), 3, generator, device)) for b in batches]).cpu())
        assert compile == "none" or step._graph is not None
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2 if precision == "bf16" else 1e-4, atol=1e-4)
