"""A loss, gradient or weight that is NaN or infinite stops a training, or takes it back to its last checkpoint."""

import json
from collections.abc import Callable, Container
from typing import Any

import pytest
import torch

from advvae.checkpoint import read_checkpoint
from tests.command import TINY, Command
from tests.steps import watch_steps

TRAIN = ("mode=train", "dataset=digits", *TINY, "n_epochs=2")
STEPS = 6  # of an epoch

Damage = Callable[[Any, torch.Tensor], torch.Tensor]


def break_step(patch: pytest.MonkeyPatch, numbers: Container[int], damage: Damage) -> None:
    """Let the steps of these numbers, counted from 1 over all that is played, end in damage."""

    def watch(step: int, players: Any, inputs: tuple[Any, ...], measured: torch.Tensor) -> torch.Tensor:
        return damage(players, measured) if step in numbers else measured

    watch_steps(patch, watch)


def infinite_loss(players: Any, measured: torch.Tensor) -> torch.Tensor:
    return measured + torch.tensor([torch.inf, *[0.0] * 9])


def nan_gradient(players: Any, measured: torch.Tensor) -> torch.Tensor:
    return measured + torch.tensor([*[0.0] * 9, torch.nan])


def nan_weight(players: Any, measured: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        players.networks.discriminator.logit.weight[0] = torch.nan  # what no validation loss shows
    return measured


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (infinite_loss, "the loss at step 8 is not finite (vae_loss=inf, recon=0."),
        (nan_gradient, "a gradient at step 8 is not finite (vae_loss=0."),
        (nan_weight, "the loss at step 9 is not finite (vae_loss=nan"),
    ],
)
def test_it_stops_the_run_and_names_the_step(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, damage: Damage, told: str
) -> None:
    break_step(monkeypatch, {STEPS + 2}, damage)
    result = advvae(*TRAIN)
    assert result.status == 1
    assert result.message.startswith(told)
    assert "kld=" in result.message
    last = result.folder / "checkpoints" / "last.pt"
    assert result.message.endswith(
        f"; the last good checkpoint is {last}, after epoch 1. Try a smaller lr, or on_nan=rewind"
    )
    training = read_checkpoint(last).training
    assert training is not None
    assert training.step == STEPS
    assert json.loads((result.folder / "metrics.json").read_text())["status"] == "failed"


def test_a_weight_that_is_not_finite_is_never_written(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    break_step(monkeypatch, {STEPS}, nan_weight)  # the last of an epoch: no further loss shows it
    result = advvae(*TRAIN)
    assert result.status == 1
    assert result.message.startswith("discriminator.logit.weight after step 6 is not finite (vae_loss=0.")
    checkpoints = list((result.folder / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["last.pt"]
    training = read_checkpoint(checkpoints[0]).training
    assert training is not None
    assert training.step == 0


@pytest.mark.parametrize("damage", [infinite_loss, nan_gradient, nan_weight])
@pytest.mark.parametrize("minutes", ["null", "1e-9"])  # back to the epoch's start, and to the step before
def test_rewind_goes_back_and_on_with_other_noise(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, damage: Damage, minutes: str
) -> None:
    arguments = (*TRAIN, "on_nan=rewind", f"checkpoint_every_minutes={minutes}")
    good = advvae(*arguments).folder
    with monkeypatch.context() as patch:
        break_step(patch, {STEPS + 2}, damage)
        result = advvae(*arguments)
    assert result.status == 0, result.errors
    assert result.output.count("on with other noise (1 of 3)") == 1
    rows, good_rows = ((run / "metrics.csv").read_text().splitlines() for run in (result.folder, good))
    columns = slice(4, 7)  # losses
    assert rows[1].split(",")[columns] == good_rows[1].split(",")[columns]  # the first epoch, which was good
    assert rows[2].split(",")[columns] != good_rows[2].split(",")[columns]
    assert json.loads((result.folder / "metrics.json").read_text())["steps"] == 2 * STEPS


def test_rewind_gives_up_after_the_third_time(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    break_step(monkeypatch, range(STEPS + 2, 1000), infinite_loss)
    result = advvae(*TRAIN, "on_nan=rewind")
    assert result.status == 1
    assert result.output.count("on with other noise") == 3
    assert result.message.endswith("after epoch 1; going back to it 3 times has not helped. Try a smaller lr")


def test_rewinds_draw_other_noise_each_time_and_the_same_order(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []

    def note(step: int, players: Any, inputs: tuple[Any, ...], measured: torch.Tensor) -> torch.Tensor:
        images, epsilon, _ = inputs
        seen.append((images.sum().item(), epsilon.sum().item()))
        return measured * torch.nan

    watch_steps(monkeypatch, note)
    assert advvae(*TRAIN, "on_nan=rewind").status == 1
    firsts = seen[::STEPS]
    assert len(firsts) == 4
    assert len({images for images, _ in firsts}) == 1
    assert len({noise for _, noise in firsts}) == 4
