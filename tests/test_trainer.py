"""The pieces of a training; tests/test_commands.py and tests/test_resume.py train."""

from pathlib import Path

import pytest
import torch

from advvae.epoch_losses import EpochLosses
from advvae.errors import UserError
from advvae.trainer import TERMS, MetricsTable, epoch_generator


def terms(value: float) -> torch.Tensor:
    return torch.full((len(TERMS),), value)


def test_epoch_losses_are_means_per_image(tmp_path: Path) -> None:
    losses = EpochLosses(0, tmp_path)
    losses.add(terms(1.0), 3)
    losses.add(terms(2.0), 1)  # a smaller last batch
    assert losses.means() == dict.fromkeys(TERMS, 1.25)
    assert (losses.steps, losses.images) == (2, 4)


def test_losses_are_read_in_between_and_at_the_end(tmp_path: Path) -> None:
    losses = EpochLosses(0, tmp_path)
    for value in range(120):
        losses.add(terms(float(value)), 1)
    assert losses.means()["recon"] == pytest.approx(59.5)


def test_a_term_that_is_not_finite_is_told_with_its_step_and_the_last_checkpoint(tmp_path: Path) -> None:
    losses = EpochLosses(10, tmp_path)
    losses.add(terms(1.0), 4)
    losses.add(torch.tensor([0.5, torch.inf, 0.0, 0.0, 0.0, 0.0]), 4)
    with pytest.raises(UserError, match=r"at step 12 is not finite \(vae_loss=0.5, recon=inf.*no checkpoint yet"):
        losses.means()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    losses = EpochLosses(0, tmp_path)
    losses.add(terms(torch.nan), 4)
    with pytest.raises(UserError, match=r"step 1 is.*the last good checkpoint is .*checkpoints/last\.pt"):
        losses.means()


def test_an_epochs_draws_follow_from_seed_and_epoch() -> None:
    draws = {
        (seed, epoch): torch.randn(4, generator=epoch_generator(seed, epoch)).tolist()
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 99_999)
    }
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert torch.randn(4, generator=epoch_generator(1, 1)).tolist() == draws[1, 1]


def test_the_table_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path, keep_until=0)
    for epoch in (1, 2, 3):
        table.append({"epoch": epoch, "val_loss": epoch / 10})
    MetricsTable(path, keep_until=2).append({"epoch": 3, "val_loss": 0.9})
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert [(row[0], row[column]) for row in rows[1:]] == [("1", "0.1"), ("2", "0.2"), ("3", "0.9")]
