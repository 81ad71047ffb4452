"""What changes as a training goes on, and by how much."""

import pytest
import torch

from advvae.players import Moving, make_players
from advvae.schedules import kld_factor, lr_factor, ramp
from tests.networks import small_networks


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
