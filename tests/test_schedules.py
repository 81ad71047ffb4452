"""What changes as a training goes on, and by how much."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advvae.config import Config
from advvae.players import Moving, make_players
from advvae.schedules import kld_factor, lr_factor, ramp
from advvae.stepping import Stepper
from tests.networks import objective, real_images, small_networks

CPU = torch.device("cpu")
CONSTANT = {
    "kld_schedule": "constant",
    "kld_epochs": 4.0,
    "adversarial_start": 0,
    "adversarial_ramp": 0.0,
    "lr_schedule": "constant",
    "lr_warmup": 0.0,
    "n_epochs": 100,
    "max_minutes": None,
    "precision": "32",
    "compile": "none",
}


def stepper(**keys: Any) -> Stepper:
    """At the beginning of its first epoch, on small networks with lr 1e-3."""
    config: Any = SimpleNamespace(**{**CONSTANT, **keys})
    step = Stepper(config, make_players(small_networks(), Moving(1e-3), CPU), objective(kld_weight=0.5), CPU)
    step.begin(0)
    return step


def noise() -> list[torch.Tensor]:
    return list(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(
    ("schedule", "cycles", "factor"),
    [
        *(("linear", 0.0, 0.0), ("linear", 0.25, 0.25), ("linear", 1.0, 1.0), ("linear", 7.3, 1.0)),
        *(
            ("cyclic", 0.0, 0.0),
            ("cyclic", 0.25, 0.5),
            ("cyclic", 0.5, 1.0),
            ("cyclic", 0.75, 1.0),
            ("cyclic", 3.25, 0.5),
        ),
    ],
)
def test_the_weight_of_the_kl_rises_once_or_in_each_cycle(schedule: str, cycles: float, factor: float) -> None:
    assert kld_factor(schedule, cycles) == pytest.approx(factor)


def test_the_learning_rate_falls_as_half_a_cosine() -> None:
    assert [lr_factor("cosine", progress) for progress in (0.0, 1 / 3, 0.5, 1.0, 1.5)] == pytest.approx(
        [1, 0.75, 0.5, 0, 0]
    )
    assert lr_factor("constant", 0.7) == 1


def test_a_ramp_begins_at_0_and_ends_at_its_length() -> None:
    assert [ramp(epoch, 4) for epoch in (-2, 0, 1, 4, 9)] == [0, 0, 0.25, 1, 1]
    assert ramp(0, 0) == 1


def test_each_learning_rate_is_scaled_from_what_it_was_given_as() -> None:
    players = make_players(small_networks(), Moving(1e-3, lr_discriminator=4e-3), torch.device("cpu"))
    optimizers = (players.vae_optimizer, players.discriminator_optimizer)

    def rates() -> list[float]:
        return [optimizer.param_groups[0]["lr"] for optimizer in optimizers if optimizer is not None]

    assert rates() == [1e-3, 4e-3]
    for _ in range(2):  # from the base, not from the last
        players.scale_lr(0.5)
        assert rates() == [5e-4, 2e-3]


def test_a_step_weighs_the_kl_as_its_schedule_says() -> None:
    losses = {}
    for epoch in (0.0, 1.0, 4.0):
        step = stepper(kld_schedule="linear")
        step.move_to(epoch, 0.0)
        terms = step(real_images(), *noise())
        losses[epoch] = terms[0].item(), terms[2].item()
    kld = losses[0.0][1]
    assert losses[1.0][0] - losses[0.0][0] == pytest.approx(0.25 * 0.5 * kld, rel=1e-4)
    assert losses[4.0][0] - losses[0.0][0] == pytest.approx(0.5 * kld, rel=1e-4)


def test_the_game_begins_at_its_epoch_and_its_terms_rise_from_then_on() -> None:
    step = stepper(adversarial_start=2, adversarial_ramp=4.0)
    step.begin(1)
    assert step.players.networks.discriminator is None
    assert step(real_images(), *noise())[3:5].tolist() == [0, 0]
    step.begin(2)
    assert step.players.networks.discriminator is not None
    for epoch, factor in ((2.0, 0.0), (3.0, 0.25), (9.0, 1.0)):
        step.move_to(epoch, 0.0)
        assert step.objective.adversarial_factor is not None
        assert step.objective.adversarial_factor.item() == factor


@pytest.mark.parametrize(
    ("keys", "epoch", "minutes", "share"),
    [
        ({}, 50.0, 0.0, 0.5),
        ({"max_minutes": 10.0}, 0.0, 5.0, 0.5),
        ({"max_minutes": 10.0}, 50.0, 1.0, 0.5),  # whichever is farther
        ({"lr_schedule": "constant", "lr_warmup": 4.0}, 1.0, 0.0, 0.25),
        ({"lr_schedule": "constant", "lr_warmup": 4.0}, 9.0, 0.0, 1.0),
    ],
)
def test_learning_rates_follow_epochs_or_minutes(
    keys: dict[str, Any], epoch: float, minutes: float, share: float
) -> None:
    step = stepper(**{"lr_schedule": "cosine", **keys})
    step.move_to(epoch, minutes)
    assert step.players.vae_optimizer.param_groups[0]["lr"] == pytest.approx(share * 1e-3)


def test_kld_weight_in_units_of_the_summed_error() -> None:
    """By the number of values of what the networks see: channels · side²."""
    images: dict[str, Any] = {"kld_weight": 2.0, "kld_unit": "sum", "dataset": {"channels": 3}, "size": 16}
    assert Config(**images, crop=None).kld_weight_of_mean == 2 / (3 * 16 * 16)
    assert Config(**images, crop=8).kld_weight_of_mean == 2 / (3 * 8 * 8)
    assert Config(**{**images, "kld_unit": "mean"}, crop=None).kld_weight_of_mean == 2
